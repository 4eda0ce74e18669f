"""Prepared samples back from their shards: in an order that depends on the seed alone, from any position, for any
number of readers.

Position p of an endless stream lies in epoch p // N, N samples in all. Each epoch has its own order: shards are
shuffled, and within each shard its samples. With `world_size` readers, reader r has the positions p with p %
world_size == r, so a run that has consumed n samples goes on at n, on however many ranks.
"""

import io
import json
import random
import tarfile
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from services.trainer.data.records import Record
from triptych.errors import FailedPrecondition, InvalidArgument


@dataclass(frozen=True)
class PreparedSample:
    """A record, and its pictures' bytes in the conversation's order; `tokens` as counted, where they were."""

    key: str
    record: Record
    source: str
    group: str
    tokens: int | None
    pictures: tuple[bytes, ...]


class ShardReader:
    """Reads the folder that `prepare` wrote; shards stay closed until they are wanted, and are read by seeking."""

    def __init__(self, folder: Path, seed: int = 0, *, rank: int = 0, world_size: int = 1) -> None:
        """Raises InvalidArgument for an impossible rank, FailedPrecondition when the folder is not whole."""
        if not 0 <= rank < world_size:
            raise InvalidArgument(f"rank {rank} of {world_size}")
        self.folder, self.seed, self.rank, self.world_size = folder, seed, rank, world_size
        self.index = _read_index(folder)
        self._sizes: list[int] = [shard["samples"] for shard in self.index["shards"]]
        self._contents = lru_cache(maxsize=4)(self._read_contents)
        self._order = lru_cache(maxsize=2)(self._epoch_order)
        self._within = lru_cache(maxsize=4)(self._shard_order)

    def __len__(self) -> int:
        """Samples of one epoch."""
        return sum(self._sizes)

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, PreparedSample]]:
        """(position, sample) of this rank from position `start` on, without end unless `stop` says. Raises
        InvalidArgument."""
        if start < 0:
            raise InvalidArgument(f"start {start} is below 0")
        position = start + (self.rank - start) % self.world_size
        while stop is None or position < stop:
            yield position, self.at(position)
            position += self.world_size

    def at(self, position: int) -> PreparedSample:
        """The sample at a position of the endless stream."""
        shard, index = self.locate(position)
        return self.read(shard, index)

    def locate(self, position: int) -> tuple[int, int]:
        """The shard and the place in it."""
        epoch, place = divmod(position, len(self))
        order, ends = self._order(epoch)
        turn = bisect_right(ends, place)
        shard = order[turn]
        return shard, self._within(epoch, shard)[place - (ends[turn] - self._sizes[shard])]

    def contents(self, shard: int) -> list[dict[str, Any]]:
        """What is known of a shard's samples, in their order: id, task, group, tokens, ... Raises FailedPrecondition
        when the shard is not whole."""
        return self._contents(shard)

    def _epoch_order(self, epoch: int) -> tuple[list[int], list[int]]:
        order = list(range(len(self._sizes)))
        random.Random(f"{self.seed}/{epoch}").shuffle(order)
        return order, list(accumulate(self._sizes[shard] for shard in order))

    def _shard_order(self, epoch: int, shard: int) -> list[int]:
        order = list(range(self._sizes[shard]))
        random.Random(f"{self.seed}/{epoch}/{shard}").shuffle(order)
        return order

    def read(self, shard: int, index: int) -> PreparedSample:
        """One sample as it lies. Raises FailedPrecondition when its bytes are no sample."""
        row = self._contents(shard)[index]
        path = self.folder / self.index["shards"][shard]["file"]
        with path.open("rb") as file:
            file.seek(row["offset"])
            data = file.read(row["num_bytes"])
        try:
            members = _members(data)
            values = json.loads(members[f"{row['key']}.json"])
            pictures = tuple(members[f"{row['key']}.{name}"] for name in values["pictures"])
        except (tarfile.TarError, KeyError, ValueError) as error:
            raise FailedPrecondition(f"{path.name}: sample {row['key']} is damaged: {error!r}") from error
        group, record = values["group"], Record.from_dict(values)
        return PreparedSample(row["key"], record, values["source"], group, values["tokens"], pictures)

    def _read_contents(self, shard: int) -> list[dict[str, Any]]:
        about = self.index["shards"][shard]
        path = self.folder / about["file"]
        contents = path.with_suffix(".json")
        if not path.is_file() or not contents.is_file() or path.stat().st_size != about["num_bytes"]:
            raise FailedPrecondition(f"{path} is missing or not whole: {about['num_bytes']} bytes are expected")
        samples: list[dict[str, Any]] = json.loads(contents.read_text(encoding="utf-8"))["samples"]
        return samples


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / "index.json"
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FailedPrecondition(f"{folder} holds no finished mix: there is no index.json") from None
    except json.JSONDecodeError as error:
        raise FailedPrecondition(f"{path}: {error}") from error
    return index


def _members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        return {member.name: file.read() for member in tar if (file := tar.extractfile(member)) is not None}
