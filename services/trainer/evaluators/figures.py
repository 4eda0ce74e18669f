"""Figures with the uncertainty they have: shares of right answers, means of scores."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

Z = 1.96  # 95 %
Scores = Iterable[tuple[str, bool | float]]  # figure -> right or not, or how good


@dataclass(frozen=True)
class Share:
    """How many of how many, with Wilson's 95 % interval."""

    right: int
    of: int

    @property
    def value(self) -> float:
        return self.right / self.of

    @property
    def interval(self) -> tuple[float, float]:
        z2, n = Z**2, self.of
        middle = (self.value + z2 / (2 * n)) / (1 + z2 / n)
        half = Z * math.sqrt(self.value * (1 - self.value) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        return middle - half, middle + half

    def to_dict(self) -> dict[str, Any]:
        return {"right": self.right, "of": self.of, "value": self.value, "interval": list(self.interval)}


@dataclass(frozen=True)
class Mean:
    """The mean of scores, with the normal 95 % interval; of one score there is none."""

    values: tuple[float, ...]

    @property
    def of(self) -> int:
        return len(self.values)

    @property
    def value(self) -> float:
        return fmean(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        if self.of < 2:
            return None
        half = Z * stdev(self.values) / math.sqrt(self.of)
        return self.value - half, self.value + half

    def to_dict(self) -> dict[str, Any]:
        return {"of": self.of, "value": self.value, "interval": list(self.interval) if self.interval else None}


Figure = Share | Mean


def tally(scores: Scores) -> dict[str, Figure]:
    """Every figure of an evaluator, in the order they are read: whole ones first, then those `of: a kind`.

    Truth values make a share, numbers a mean; a figure is one of both.
    """
    found: dict[str, list[bool | float]] = {}
    for name, score in scores:
        found.setdefault(name, []).append(score)
    return {name: _figure(found[name]) for name in sorted(found, key=lambda name: (": " in name, name))}


def _figure(scores: list[bool | float]) -> Figure:
    if all(isinstance(score, bool) for score in scores):
        return Share(int(sum(scores)), len(scores))
    assert not any(isinstance(score, bool) for score in scores)
    return Mean(tuple(float(score) for score in scores))
