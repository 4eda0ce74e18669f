"""metrics.jsonl: what a stage says of itself, step by step."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from services.trainer.data.files import write_atomic
from services.trainer.ranks import ALONE, Ranks

WHOLE = {"gradient_norm", "learning_rate"}  # the same on every rank; all other figures are shares, which add up


class MetricsLog:
    """metrics.jsonl: means over the steps between two lines, with the seconds spent so far over all resumes.

    Rank 0 writes. Lines after the step that is gone on from are cut off: they will be said again.
    """

    def __init__(self, path: Path, step: int, ranks: Ranks = ALONE) -> None:
        self.path, self.ranks = path, ranks
        text = path.read_text() if path.exists() and ranks.is_first else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]  # a kill cuts one
        kept = [line for line in lines if line["step"] <= step]
        if ranks.is_first:
            write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())  # the disk may be full
        self._before = max((line["seconds"] for line in kept), default=0.0)
        self._start = time.monotonic()
        self._sums: dict[str, Tensor] = {}
        self._num = 0

    def total_seconds(self) -> float:
        return round(self._before + time.monotonic() - self._start, 1)

    def add(self, figures: dict[str, Tensor]) -> None:
        """Of one step; every rank with the same names."""
        self._num += 1
        for key, value in figures.items():
            self._sums[key] = self._sums.get(key, torch.zeros((), device=value.device)) + value.detach().float()

    def flush(self, step: int) -> dict[str, float]:
        """The means since the last time, written. Every rank must call it."""
        if self.ranks.world_size > 1:
            shares = sorted(set(self._sums) - WHOLE)
            total = self.ranks.sum(torch.stack([self._sums[key].to(self.ranks.device) for key in shares]))
            self._sums |= dict(zip(shares, total, strict=True))
        means = {key: value.item() / self._num for key, value in self._sums.items()}
        self._sums, self._num = {}, 0
        self.write({"step": step, **means})
        return means

    def write(self, line: dict[str, Any]) -> None:
        if self.ranks.is_first:
            with self.path.open("a") as file:
                file.write(json.dumps({**line, "seconds": self.total_seconds()}) + "\n")
