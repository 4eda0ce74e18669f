"""All evaluators before one model, in this process or spread over several."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from services.trainer.evaluators import EVALUATORS
from services.trainer.evaluators.base import Evaluator, Outcome, Settings
from services.trainer.evaluators.figures import Figure, tally
from services.trainer.evaluators.gallery import Gallery
from services.trainer.pool import worker_pool
from triptych.errors import FailedPrecondition, InvalidArgument
from triptych.models.placement import prepare_torch
from triptych.models.unified import UnifiedModel

ITEMS_A_TASK = 5
Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Job:
    """Which model is asked what. `num_threads`: of each process; 0: as torch finds it."""

    checkpoint: Path
    names: tuple[str, ...]
    settings: Settings
    data: tuple[tuple[str, Path], ...] = ()
    num_threads: int = 0

    def evaluators(self) -> dict[str, Evaluator]:
        """Raises InvalidArgument for names that are unknown or lack their data, and for data that cannot be read."""
        folders = dict(self.data)
        made: dict[str, Evaluator] = {}
        for name in dict.fromkeys((*self.names, *folders)):
            try:
                evaluator = EVALUATORS.load(name)
            except ValueError as error:
                raise InvalidArgument(str(error)) from None
            if evaluator.needs_data and name not in folders:
                raise InvalidArgument(f"evaluator {name} needs its data set: --data {name}=FOLDER")
            if name in folders and not evaluator.needs_data:
                raise InvalidArgument(f"evaluator {name} takes no data")
            if name in folders and not folders[name].is_dir():
                raise InvalidArgument(f"--data {name}={folders[name]} is no folder")
            if name in self.names:
                made[name] = evaluator(self.settings, folders.get(name))
        return made


@dataclass(frozen=True)
class Result:
    """What came of one evaluator. `seconds`: until all of it was there, on the wall."""

    title: str
    num_items: int
    seconds: float
    figures: dict[str, Figure]
    gallery: Gallery


class Panel:
    """A process's own model and evaluators."""

    def __init__(self, job: Job) -> None:
        prepare_torch(job.num_threads)
        torch.use_deterministic_algorithms(True)
        self.evaluators = job.evaluators()
        self.model = UnifiedModel.load(job.checkpoint)

    def judge(self, name: str, items: range) -> list[Outcome]:
        return [self.evaluators[name].judge(self.model, item) for item in items]


def evaluate(job: Job, num_processes: int, report: Report) -> dict[str, Result]:
    """Results by evaluator; they do not depend on the number of processes."""
    evaluators = job.evaluators()
    _check_decoder(job.checkpoint, evaluators)
    for evaluator in evaluators.values():
        evaluator.check()
    total = sum(len(evaluator) for evaluator in evaluators.values())
    start, done = time.monotonic(), 0
    results: dict[str, Result] = {}
    with worker_pool(num_processes) if num_processes > 1 else nullcontext(Panel(job)) as place:
        waiting = {name: _outcomes(job, name, len(evaluator), place) for name, evaluator in evaluators.items()}
        for name, parts in waiting.items():
            outcomes: list[tuple[str, bool | float]] = []
            gallery = Gallery(evaluators[name].bar)
            for part in _unbroken(parts):
                for outcome in part:
                    outcomes += outcome.scores
                    gallery.add(outcome.example)
                done += len(part)
                report({"step": done, "steps": total})
            seconds = time.monotonic() - start
            results[name] = Result(
                evaluators[name].title, len(evaluators[name]), round(seconds, 1), tally(outcomes), gallery
            )
            start = time.monotonic()
    return results


def _outcomes(job: Job, name: str, num_items: int, place: Executor | Panel) -> Iterator[list[Outcome]]:
    """Parts in order. With a pool, all of them are under way at once."""
    tasks = [range(first, min(first + ITEMS_A_TASK, num_items)) for first in range(0, num_items, ITEMS_A_TASK)]
    if isinstance(place, Panel):
        return (place.judge(name, items) for items in tasks)
    futures = [place.submit(_judge_in_worker, job, name, items) for items in tasks]
    return (future.result() for future in futures)


_panel = cache(Panel)  # one a worker, which serves one job


def _judge_in_worker(job: Job, name: str, items: range) -> list[Outcome]:
    return _panel(job).judge(name, items)


def _unbroken(parts: Iterator[list[Outcome]]) -> Iterator[list[Outcome]]:
    try:
        yield from parts
    except BrokenProcessPool:
        raise FailedPrecondition("a process was killed; it may help to have fewer --processes") from None


def _check_decoder(checkpoint: Path, evaluators: dict[str, Evaluator]) -> None:
    if not (checkpoint / "decoder").exists():
        drawn = ", ".join(name for name, evaluator in evaluators.items() if evaluator.draws)
        if drawn:
            raise InvalidArgument(f"{checkpoint} has no decoder, which is needed for {drawn}")
