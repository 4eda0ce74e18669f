"""Pieces of work in processes of their own, as many at a time as there are cores, each after what it waits for."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.trainer.leash import leashed
from services.trainer.progress import Display, relay
from triptych.errors import FailedPrecondition

POLL_S = 0.5
MODULE = "services.trainer.ablations"


@dataclass(frozen=True)
class Work:
    """`python -m services.trainer.ablations args...`, which prints JSON lines; `needs` are keys of other works."""

    name: str
    args: list[str]
    needs: frozenset[Path]
    is_done: Callable[[], bool]


@dataclass(frozen=True)
class _Running:
    key: Path
    process: subprocess.Popen[bytes]
    log: Path


def finish_all(
    works: dict[Path, Work], num_processes: int, logs: Path, display: Display, after_each: Callable[[], None]
) -> None:
    """Brings all of them to done. Raises FailedPrecondition naming the one that failed; the others are stopped then."""
    waiting = {key for key, work in works.items() if not work.is_done()}
    done = works.keys() - waiting
    running: list[_Running] = []
    with display:
        try:
            while waiting or running:
                ready = [key for key in works if key in waiting and works[key].needs <= done]
                for key in ready[: num_processes - len(running)]:
                    waiting.remove(key)
                    running.append(_start(key, works[key], logs, display))
                time.sleep(POLL_S)
                for ended in [r for r in running if r.process.poll() is not None]:
                    _check(ended, works[ended.key])
                    running.remove(ended)
                    done |= {ended.key}
                    after_each()
        finally:
            for left in running:
                left.process.terminate()
                left.process.wait()


def _start(key: Path, work: Work, logs: Path, display: Display) -> _Running:
    """One thread each: two processes of one thread do more than one of two."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{'-'.join(key.parts[-2:])}.log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = leashed([sys.executable, "-m", MODULE, *work.args])
    with log.open("a") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
    display.start(work.name)
    threading.Thread(target=relay, args=(process, work.name, log, display), daemon=True).start()
    return _Running(key, process, log)


def _check(ended: _Running, work: Work) -> None:
    if ended.process.returncode != 0:
        tail = "\n".join(ended.log.read_text().splitlines()[-5:])
        raise FailedPrecondition(f"{work.name} failed (log: {ended.log})\n{tail}")
