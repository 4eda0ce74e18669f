"""A whole recipe on one machine: every stage in a process of its own, as soon as what it needs is done."""

import json
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from services.trainer.config import Recipe
from services.trainer.launch import command
from services.trainer.plot import plot_losses
from services.trainer.stages import NEEDS, is_done
from triptych.errors import FailedPrecondition, InvalidArgument

MAX_SIDE_BY_SIDE = 2
POLL_S = 0.5
HIDDEN_FIGURES = {"step", "steps", "seconds", "gradient_norm", "learning_rate"}


@dataclass(frozen=True)
class Running:
    """A stage's process and where its output goes."""

    stage: str
    process: subprocess.Popen[str]
    log: Path
    log_start: int  # bytes of earlier runs in it


def run_recipe(recipe: Recipe, path: Path, threads: int) -> None:
    """Brings every stage to done. Raises FailedPrecondition naming the stage that failed; the others are stopped."""
    _check_one_node(recipe)
    cores = threads or os.cpu_count() or 1
    running: list[Running] = []
    with _progress() as progress:
        bars = {stage: progress.add_task(stage, total=None, figures="", start=False) for stage in NEEDS}
        try:
            while not all(is_done(recipe, stage) for stage in NEEDS):
                running = _reap(recipe, running)
                for stage in _ready(recipe, running)[: min(MAX_SIDE_BY_SIDE, cores) - len(running)]:
                    share = cores if _alone(stage) else max(1, cores // MAX_SIDE_BY_SIDE)
                    running.append(_start(recipe, path, stage, share, progress, bars[stage]))
                time.sleep(POLL_S)
        finally:
            for left in running:
                left.process.terminate()
                left.process.wait()


def _check_one_node(recipe: Recipe) -> None:
    for stage in NEEDS:
        distribution = recipe.distribution(stage)
        if distribution and distribution.num_nodes > 1:
            raise InvalidArgument(
                f"{stage}.distribution.num_nodes is {distribution.num_nodes}: a whole recipe runs on one machine; "
                "start such a stage by a command on each node"
            )


def _ready(recipe: Recipe, running: list[Running]) -> list[str]:
    """Stages that could start now, those others wait for first."""
    busy = {r.stage for r in running}
    open_stages = [s for s in NEEDS if s not in busy and not is_done(recipe, s)]
    return [s for s in open_stages if all(is_done(recipe, need) for need in NEEDS[s])]


def _alone(stage: str) -> bool:
    """Whether nothing can run beside this stage: every other one is needed by it or needs it."""
    return stage in ("multimodal", "publish")


def _start(recipe: Recipe, path: Path, stage: str, threads: int, progress: Progress, bar: TaskID) -> Running:
    distribution = recipe.distribution(stage)
    share = max(1, threads // (distribution.num_processes if distribution else 1))
    environment = {**os.environ, "OMP_NUM_THREADS": str(share)}
    argv = command(path, stage, distribution, threads=share)
    log = recipe.folder / f"{stage}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as errors:
        log_start = errors.tell()
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    progress.start_task(bar)
    threading.Thread(target=_follow, args=(process, progress, bar), daemon=True).start()
    return Running(stage, process, log, log_start)


def _follow(process: subprocess.Popen[str], progress: Progress, bar: TaskID) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        figures = json.loads(line)
        shown = "  ".join(f"{key} {value:.3f}" for key, value in figures.items() if key not in HIDDEN_FIGURES)
        progress.update(bar, completed=figures["step"], total=figures["steps"], figures=shown)


def _reap(recipe: Recipe, running: list[Running]) -> list[Running]:
    for ended in [r for r in running if r.process.poll() is not None]:
        if ended.process.returncode != 0:
            raise FailedPrecondition(f"stage {ended.stage} failed (log: {ended.log})\n{_reason(ended)}")
        plot_losses(recipe.folder / ended.stage)
    return [r for r in running if r.process.poll() is None]


def _reason(ended: Running) -> str:
    """What its ranks said, each once; else how its log ends (torch's launcher puts a page of its own there)."""
    lines = ended.log.read_bytes()[ended.log_start :].decode(errors="replace").splitlines()
    said = list(dict.fromkeys(line for line in lines if line.startswith("error: ")))
    return "\n".join((said or lines)[-5:])


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    return Progress(*columns, console=Console(stderr=True))
