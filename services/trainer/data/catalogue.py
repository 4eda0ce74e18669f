"""What a prepared mix holds, sample by sample, without opening one: which to train on, and which never."""

import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from services.trainer.data.reader import PreparedSample, ShardReader
from triptych.errors import FailedPrecondition, InvalidArgument


class Catalogue:
    """All samples of a folder that `prepare` wrote, numbered in the shards' order."""

    def __init__(self, folder: Path) -> None:
        """Raises FailedPrecondition when the folder is not whole, or its samples were never counted in tokens."""
        self._reader = ShardReader(folder)
        self.tasks: list[str] = []
        self.groups: list[str] = []
        self.kinds: list[str] = []
        tokens: list[int] = []
        sizes: list[int] = []
        for shard in range(len(self._reader.index["shards"])):
            rows = self._reader.contents(shard)
            if any(row["tokens"] is None for row in rows):
                raise FailedPrecondition(f"{folder}: samples are not counted: prepare it with a [length] table")
            sizes.append(len(rows))
            tokens += [row["tokens"] for row in rows]
            self.tasks += [row["task"] for row in rows]
            self.groups += [row["group"] for row in rows]
            self.kinds += [_kind(row) for row in rows]
        self.tokens = np.asarray(tokens, np.int64)
        self._shards = np.repeat(np.arange(len(sizes)), sizes)
        self._places = np.concatenate([np.arange(size) for size in sizes]) if sizes else np.arange(0)

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, number: int) -> PreparedSample:
        """Raises FailedPrecondition when its bytes are no sample."""
        return self._reader.read(int(self._shards[number]), int(self._places[number]))

    def held_out(self, num: int, seed: int) -> set[int]:
        """Samples that are never trained on, drawn from all. Raises InvalidArgument when nothing would be left."""
        if num >= len(self):
            raise InvalidArgument(f"held_out is {num}, but there are {len(self)} samples in all")
        return draw_held_out(len(self), num, seed)

    def chosen(self, tasks: Collection[str], groups: Collection[str]) -> list[int]:
        """The samples of these tasks and groups; no groups: of any. Raises InvalidArgument for a group it has not."""
        if unknown := sorted(set(groups) - set(self.groups)):
            raise InvalidArgument(f"groups {unknown}: the mix has {sorted(set(self.groups))}")
        named = set(groups) or set(self.groups)
        both = zip(self.tasks, self.groups, strict=True)
        return [number for number, (task, group) in enumerate(both) if task in tasks and group in named]


def draw_held_out(num_samples: int, num: int, seed: int) -> set[int]:
    """Which of a mix's samples are not to be trained on."""
    return set(random.Random(f"{seed}/held out").sample(range(num_samples), num))


def _kind(row: dict[str, Any]) -> str:
    """Samples of a kind make the same parts of a model work: batches of one kind spare the others."""
    has_pictures = row.get("num_pictures", 1) > 0  # mixes prepared earlier do not say
    return str(row["task"]) if has_pictures else "text"
