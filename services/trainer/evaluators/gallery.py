"""The examples that a report shows: some right, some wrong; or the best and the worst."""

from dataclasses import dataclass, field

from services.trainer.evaluators.base import Example

NUM_SHOWN = 8  # of each


@dataclass
class Gallery:
    """The first right and wrong examples by `bar`, or without one the best and the worst."""

    bar: float | None
    good: list[Example] = field(default_factory=list)
    bad: list[Example] = field(default_factory=list)
    num_good: int = 0
    num_bad: int = 0

    def add(self, example: Example) -> None:
        """Keeps what is shown. Among equals the earlier ones stay."""
        is_good = self.bar is None or example.score >= self.bar
        is_bad = self.bar is None or not is_good
        self.num_good += is_good
        self.num_bad += is_bad
        if is_good:
            self.good = sorted([*self.good, example], key=lambda e: -e.score)[:NUM_SHOWN]
        if is_bad:
            self.bad = sorted([*self.bad, example], key=lambda e: e.score)[:NUM_SHOWN]

    @property
    def sides(self) -> list[tuple[str, list[Example], int]]:
        """Heading, examples and how many there are in all; without a bar no example is on both sides."""
        if self.bar is None:
            worst = [example for example in self.bad if not any(example is other for other in self.good)]
            return [("nearest", self.good, self.num_good), ("farthest", worst, self.num_bad)]
        return [("right", self.good, self.num_good), ("wrong", self.bad, self.num_bad)]
