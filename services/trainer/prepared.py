"""A prepared mix, opened no further than has to be known before training."""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Self

from services.trainer.data.reader import ShardReader
from triptych.errors import InvalidArgument


def index_digest(folder: Path) -> str:
    """Identity of a prepared mix. Raises InvalidArgument when it is none."""
    path = folder / "index.json"
    if not path.is_file():
        raise InvalidArgument(f"data {folder} is no finished mix: {path} is missing")
    return _sha256(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _sha256(path: Path, modified_ns: int) -> str:
    """Of a file as it was then."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Prepared:
    """What its index says, and samples counted as far as is asked."""

    folder: Path
    groups: frozenset[str]
    num_samples: int

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises InvalidArgument when it is no prepared mix."""
        index_digest(folder)
        path = folder / "index.json"
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            return cls(folder, frozenset(index["groups"].values()), int(index["num_samples"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidArgument(f"{path}: {error!r}") from error

    def count(self, tasks: Collection[str], groups: Collection[str], enough: int, never: Collection[int] = ()) -> int:
        """Samples of these tasks and groups (none: of any), counted up to `enough`: as a rule that takes one shard.
        Those with numbers in `never` do not count.

        Raises FailedPrecondition when a shard is not whole.
        """
        reader = ShardReader(self.folder)
        rows = (row for shard in range(len(reader.index["shards"])) for row in reader.contents(shard))
        named = set(groups) or self.groups
        free = (row for number, row in enumerate(rows) if number not in never)
        fitting = (row for row in free if row["task"] in tasks and row["group"] in named)
        return len(list(islice(fitting, enough)))
