"""Whose fault a failure was: the newer generation's, or the request's, which fails on an older one too."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from services.orchestrator.trial import REFUSALS, Trials
from triptych.errors import TriptychError

# What is redone has less time left: that it runs out of it again proves nothing.
INCOMPARABLE: Final = REFUSALS | {"DEADLINE_EXCEEDED"}


@dataclass(frozen=True)
class Failure:
    """Of a generation on trial."""

    stage: str
    generation: str
    code: str


class Comparison:
    """The calls of one request. What failed on a generation on trial is redone by an older one: the same failure there
    takes the first one off the record, and a refusal goes on the record only if there was none there."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials
        self._failures: list[Failure] = []

    @contextmanager
    def call(self, stage: str, generation: str) -> Iterator[None]:
        """Around a call, as `Trials.call`."""
        is_suspect = self._trials.is_suspect(stage, generation)
        try:
            with self._trials.call(stage, generation):
                yield
        except TriptychError as error:
            if is_suspect:
                self._failures.append(Failure(stage, generation, error.code))
            else:
                self._settle(stage, error.code)
            raise
        else:
            if not is_suspect:
                self._settle(stage, "OK")

    def _settle(self, stage: str, code: str) -> None:
        """An established generation ended the same work with `code`."""
        redone = [failure for failure in self._failures if failure.stage == stage]
        self._failures = [failure for failure in self._failures if failure.stage != stage]
        for failure in redone:
            if code == "OK" and failure.code in REFUSALS:
                self._trials.ended(stage, failure.generation, failed=True)
            elif code == failure.code and code not in INCOMPARABLE:
                self._trials.excuse(stage, failure.generation)
