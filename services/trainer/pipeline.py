"""A whole recipe on one machine: every stage in a process of its own, as soon as what it needs is done."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.trainer.config import Recipe
from services.trainer.plot import plot_losses
from services.trainer.progress import Display
from services.trainer.stages import NEEDS, is_done, runs_alone
from triptych.errors import FailedPrecondition

MAX_SIDE_BY_SIDE = 2
POLL_S = 0.5


@dataclass(frozen=True)
class Running:
    """A stage's process and where its output goes."""

    stage: str
    process: subprocess.Popen[str]
    log: Path


def run_stages(recipe: Recipe, path: Path, stages: Sequence[str], threads: int, display: Display) -> None:
    """Brings these stages to done.

    Raises FailedPrecondition when what they need besides is not done, and naming the stage that failed; the others are
    stopped then.
    """
    _check_needs(recipe, stages)
    cores = threads or os.cpu_count() or 1
    running: list[Running] = []
    with display:
        try:
            while not all(is_done(recipe, stage) for stage in stages):
                running = _reap(recipe, running)
                for stage in _ready(recipe, stages, running)[: min(MAX_SIDE_BY_SIDE, cores) - len(running)]:
                    share = cores if runs_alone(stage) else max(1, cores // MAX_SIDE_BY_SIDE)
                    running.append(_start(recipe, path, stage, share, display))
                time.sleep(POLL_S)
        finally:
            for left in running:
                left.process.terminate()
                left.process.wait()


def _check_needs(recipe: Recipe, stages: Sequence[str]) -> None:
    for stage in stages:
        missing = [need for need in NEEDS[stage] if need not in stages and not is_done(recipe, need)]
        if missing and not is_done(recipe, stage):
            raise FailedPrecondition(f"stage {stage} needs {', '.join(missing)} first")


def _ready(recipe: Recipe, stages: Sequence[str], running: list[Running]) -> list[str]:
    """Stages that could start now, those others wait for first."""
    busy = {r.stage for r in running}
    open_stages = [s for s in NEEDS if s in stages and s not in busy and not is_done(recipe, s)]
    return [s for s in open_stages if all(is_done(recipe, need) for need in NEEDS[s])]


def _start(recipe: Recipe, path: Path, stage: str, threads: int, display: Display) -> Running:
    command = [sys.executable, "-m", "services.trainer", str(path), "--stage", stage, "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    log = recipe.folder / f"{stage}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    display.start(stage)
    threading.Thread(target=_follow, args=(process, stage, display), daemon=True).start()
    return Running(stage, process, log)


def _follow(process: subprocess.Popen[str], stage: str, display: Display) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        display.show(stage, json.loads(line))


def _reap(recipe: Recipe, running: list[Running]) -> list[Running]:
    for ended in [r for r in running if r.process.poll() is not None]:
        if ended.process.returncode != 0:
            tail = "\n".join(ended.log.read_text().splitlines()[-5:])
            raise FailedPrecondition(f"stage {ended.stage} failed (log: {ended.log})\n{tail}")
        plot_losses(recipe.folder / ended.stage)
    return [r for r in running if r.process.poll() is None]
