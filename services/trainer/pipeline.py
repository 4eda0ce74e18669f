"""A whole recipe: every stage in a process of its own, or in ranks, as soon as what it needs is done."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from services.trainer.folder_lock import alone_in
from services.trainer.launch import Rendezvous, command
from services.trainer.leash import leashed
from services.trainer.plot import plot_losses
from services.trainer.progress import Display, relay
from services.trainer.recipe import AnyRecipe
from services.trainer.stages import graph, is_done
from triptych.errors import FailedPrecondition, InvalidArgument, TriptychError, Unavailable

MAX_SIDE_BY_SIDE = 2
POLL_S = 0.5
LOST = 3  # exit code of a rank that is not to blame
RANK_ENDED = re.compile(r"exitcode\s*: (-?\d+)")  # torch's launcher says so of each


@dataclass(frozen=True)
class Running:
    """A stage's process and where its output goes."""

    stage: str
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int  # bytes of earlier runs in it
    is_first: bool  # whether this is the node that writes


@dataclass(frozen=True)
class Node:
    """This machine among those that work on the same stages, over the same folder."""

    rank: int
    rendezvous: str  # host:port on node 0


def run_stages(
    recipe: AnyRecipe, path: Path, stages: Sequence[str], threads: int, display: Display, node: Node | None = None
) -> None:
    """Brings these stages to done.

    Raises FailedPrecondition when what they need besides is not done, and naming the stage that failed, Unavailable
    when something killed it; the others are stopped then. Unavailable, too, while another trainer is at work in the
    recipe's folder.
    """
    _check_nodes(recipe, stages, node)
    _check_needs(recipe, stages)
    with nullcontext() if node and node.rank else alone_in(recipe.folder):  # the first node's, of several
        _run(recipe, path, stages, threads, display, node)


def _run(
    recipe: AnyRecipe, path: Path, stages: Sequence[str], threads: int, display: Display, node: Node | None
) -> None:
    cores = threads or os.cpu_count() or 1
    running: list[Running] = []
    started: set[str] = set()  # also those that have ended here: another node may still be at work on them
    with display:
        try:
            while running or not all(is_done(recipe, stage) for stage in stages):
                running = _reap(recipe, running)
                ready = [s for s in _ready(recipe, stages) if s not in started and _takes_part(recipe, s, node)]
                for stage in ready[: min(MAX_SIDE_BY_SIDE, cores) - len(running)]:
                    share = cores if graph(recipe).runs_alone(stage) else max(1, cores // MAX_SIDE_BY_SIDE)
                    running.append(_start(recipe, path, stage, share, display, node))
                    started.add(stage)
                time.sleep(POLL_S)
        finally:
            for left in running:
                left.process.terminate()
                left.process.wait()


def _check_nodes(recipe: AnyRecipe, stages: Sequence[str], node: Node | None) -> None:
    for stage in stages:
        distribution = recipe.distribution(stage)
        if distribution and distribution.num_nodes > 1 and node is None:
            raise InvalidArgument(
                f"{stage}.distribution.num_nodes is {distribution.num_nodes}: this command is needed on each of them, "
                "with --node-rank and --rendezvous"
            )


def _check_needs(recipe: AnyRecipe, stages: Sequence[str]) -> None:
    for stage in stages:
        missing = [need for need in graph(recipe).needs[stage] if need not in stages and not is_done(recipe, need)]
        if missing and not is_done(recipe, stage):
            raise FailedPrecondition(f"stage {stage} needs {', '.join(missing)} first")


def _ready(recipe: AnyRecipe, stages: Sequence[str]) -> list[str]:
    """Stages that could be under way now, those others wait for first."""
    needs = graph(recipe).needs
    open_stages = [s for s in needs if s in stages and not is_done(recipe, s)]
    return [s for s in open_stages if all(is_done(recipe, need) for need in needs[s])]


def _takes_part(recipe: AnyRecipe, stage: str, node: Node | None) -> bool:
    """Stages that are not spread over nodes belong to the first; the others wait for them."""
    distribution = recipe.distribution(stage)
    return node is None or node.rank < (distribution.num_nodes if distribution else 1)


def _start(recipe: AnyRecipe, path: Path, stage: str, threads: int, display: Display, node: Node | None) -> Running:
    distribution = recipe.distribution(stage)
    share = max(1, threads // (distribution.num_processes if distribution else 1))
    environment = {**os.environ, "OMP_NUM_THREADS": str(share)}
    meeting = Rendezvous(node.rendezvous, f"{recipe.name}-{stage}") if node else None
    argv = command(path, stage, distribution, meeting, node.rank if node else 0, share)
    log = recipe.folder / (f"{stage}.node{node.rank}.log" if node and node.rank else f"{stage}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as errors:
        log_start = errors.tell()
        process = subprocess.Popen(leashed(argv), stdout=subprocess.PIPE, stderr=errors, env=environment)
    display.start(stage)
    threading.Thread(target=relay, args=(process, stage, log, display), daemon=True).start()
    return Running(stage, process, log, log_start, node is None or node.rank == 0)


def _reap(recipe: AnyRecipe, running: list[Running]) -> list[Running]:
    for ended in [r for r in running if r.process.poll() is not None]:
        if ended.process.returncode != 0:
            raise failure_of(ended)
        if ended.is_first:
            _check_done(recipe, ended.stage)
            plot_losses(recipe.folder / ended.stage)
    return [r for r in running if r.process.poll() is None]


def _check_done(recipe: AnyRecipe, stage: str) -> None:
    """A stage is of the settings, base and data it began with; other ones would be waited for without end."""
    if not is_done(recipe, stage):
        raise FailedPrecondition(
            f"stage {stage} ended well, but the base, the data or the mix's file changed while it ran: what is in "
            f"{recipe.folder / stage} was made from them as they were before"
        )


def failure_of(ended: Running) -> TriptychError:
    """FailedPrecondition with what its ranks said, each once; Unavailable where they were ended without a word.

    torch's launcher ends with 1 whatever ended its ranks, and puts a page of its own into the log.
    """
    lines = ended.log.read_bytes()[ended.log_start :].decode(errors="replace").splitlines()
    said = list(dict.fromkeys(line for line in lines if line.startswith("error: ")))
    tail = "\n".join((said or lines)[-5:])
    if ended.process.returncode < 0:
        name = signal.Signals(-ended.process.returncode).name
        return Unavailable(f"stage {ended.stage} was ended by {name} (log: {ended.log})\n{tail}")
    codes = {int(found[1]) for line in lines if (found := RANK_ENDED.search(line))}
    if codes and all(code < 0 or code == LOST for code in codes):
        return Unavailable(f"a rank of stage {ended.stage} was killed, or lost the others (log: {ended.log})\n{tail}")
    return FailedPrecondition(f"stage {ended.stage} failed (log: {ended.log})\n{tail}")
