"""A new generation beside an older one is on trial: fewer requests go to it, and its failures and times are held
against the older one's. Beyond the bounds it is quarantined. Pure Python: numbers in, verdicts out.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from triptych.errors import TriptychError

WINDOW: Final = 50  # calls looked back on
BLAMELESS: Final = frozenset({"CANCELLED"})
# What a wrong request gets anywhere. Held against a generation only once another one has done the same work: a caller
# could have a good one taken back otherwise.
REFUSALS: Final = frozenset({"INVALID_ARGUMENT"})


@dataclass(frozen=True)
class Rules:
    """When a trial ends, and how. `num_calls` 0: no trials."""

    num_calls: int = 20  # ended well: the trial is passed
    time_s: float = 60.0  # it is passed after that long too, if fewer calls came
    share: float = 0.25  # of the requests, at most, while on trial
    max_failures: float = 0.1  # share of the calls, above the older generation's
    max_slowdown: float = 3.0  # median time of a unit of work over the older generation's; 0: not looked at
    min_failures: int = 2  # one alone proves nothing
    min_times: int = 5  # of either side, before they are compared


@dataclass
class Record:
    """Of one generation of one stage. Those first seen at the same time have the same `number`."""

    number: int
    began_s: float | None = None  # its trial; None: it never had one, or it is over
    fault: str = ""  # why it is quarantined
    num_calls: int = 0
    num_failed: int = 0
    failures: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    unit_ms: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))


class Trials:
    """All generations behind one orchestrator."""

    def __init__(self, rules: Rules, now_s: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._now_s = now_s
        self._records: dict[tuple[str, str], Record] = {}
        self._round = 0

    def update(self, known: Mapping[str, set[str]], fitting: Mapping[str, set[str]]) -> None:
        """Generations by stage: all that are there, and those of them that serve and fit. Those gone are forgotten:
        when they come back, they are on trial again."""
        self._records = {key: record for key, record in self._records.items() if key[1] in known.get(key[0], set())}
        self._round += 1
        for stage, generations in fitting.items():
            for generation in sorted(generations):
                if (stage, generation) not in self._records:
                    self._records[stage, generation] = Record(self._round)
                    if self._rules.num_calls > 0 and self._older(stage, generation, generations):
                        self._records[stage, generation].began_s = self._now_s()
            for generation in generations:
                self._judge(stage, generation, generations)

    @contextmanager
    def call(self, stage: str, generation: str) -> Iterator[None]:
        """Around a call; how it ends counts, but for one that the caller gives up, or that is refused as wrong."""
        try:
            yield
        except TriptychError as error:
            if error.code not in BLAMELESS | REFUSALS:
                self.ended(stage, generation, failed=True)
            raise
        else:
            self.ended(stage, generation, failed=False)

    def ended(self, stage: str, generation: str, *, failed: bool) -> None:
        if record := self._records.get((stage, generation)):
            record.failures.append(failed)
            record.num_calls += 1
            record.num_failed += failed

    def excuse(self, stage: str, generation: str) -> None:
        """One of its failures was the request's own."""
        record = self.record(stage, generation)
        if True in record.failures:
            record.failures.remove(True)
            record.num_calls -= 1
            record.num_failed -= 1

    def took(self, stage: str, generation: str, running_ms: float, num_units: int) -> None:
        """`num_units` of work: pictures, tokens or steps, so that long requests compare with short ones."""
        if record := self._records.get((stage, generation)):
            record.unit_ms.append(running_ms / max(1, num_units))

    def record(self, stage: str, generation: str) -> Record:
        """An empty one where nothing is known."""
        return self._records.get((stage, generation)) or Record(0)

    def is_on_trial(self, stage: str, generation: str) -> bool:
        return self.record(stage, generation).began_s is not None

    def is_suspect(self, stage: str, generation: str) -> bool:
        """On trial, or in quarantine: it may fail where an older one would not."""
        return self.is_on_trial(stage, generation) or bool(self.fault(stage, generation))

    def fault(self, stage: str, generation: str) -> str:
        """Why it is quarantined; empty when it is not."""
        return self.record(stage, generation).fault

    def _older(self, stage: str, generation: str, serving: set[str]) -> list[Record]:
        mine = self._records[stage, generation].number
        others = [self._records[stage, other] for other in serving if (stage, other) in self._records]
        return [record for record in others if record.number < mine and not record.fault]

    def _judge(self, stage: str, generation: str, serving: set[str]) -> None:
        record = self._records[stage, generation]
        older = self._older(stage, generation, serving)
        if record.fault or not older or self._rules.num_calls == 0:
            record.began_s = None
            return
        record.fault = self._failing(record, older) or self._slow(record, older)
        if record.fault or (record.began_s is not None and self._is_over(record, record.began_s)):
            record.began_s = None

    def _is_over(self, record: Record, began_s: float) -> bool:
        passed = record.num_calls - record.num_failed >= self._rules.num_calls
        return passed or self._now_s() - began_s >= self._rules.time_s

    def _failing(self, record: Record, older: Sequence[Record]) -> str:
        failed, calls = sum(record.failures), len(record.failures)
        before = [failed for each in older for failed in each.failures]
        bound = self._rules.max_failures + (sum(before) / len(before) if before else 0.0)
        if failed < self._rules.min_failures or failed <= bound * calls:
            return ""
        return f"{failed} of its last {calls} calls failed, {sum(before)} of {len(before)} of the older generation's"

    def _slow(self, record: Record, older: Sequence[Record]) -> str:
        before = [unit_ms for each in older for unit_ms in each.unit_ms]
        if self._rules.max_slowdown == 0 or min(len(record.unit_ms), len(before)) < self._rules.min_times:
            return ""
        mine, theirs = median(record.unit_ms), median(before)
        if mine <= self._rules.max_slowdown * theirs:
            return ""
        return f"it takes {mine:.1f} ms for a unit of work, the older generation {theirs:.1f} ms"
