"""What a reader must say: which entries its data set has, in the published order, and the record each of them is."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from services.trainer.data.records import BadRecord, Record
from triptych.errors import InvalidArgument

NAME = r"^[a-z0-9][a-z0-9._-]*$"
NO_JSON = (ValueError, RecursionError)  # what json raises: no JSON, a number of too many digits, lists too deep


class SourceConfig(BaseModel):
    """What every source of a mix has; readers add their own keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    type: str
    name: str = Field(pattern=NAME, description="in counts, in the card, in every sample")
    group: str = Field(description="the share it belongs to")
    path: Path
    limit: int | None = Field(None, ge=1, description="at most so many records, chosen by seed")


class Source(ABC):
    """One data set on disk. `seed` is the mix's: whatever a reader draws depends on it and on the entry alone.

    `work`: a folder for what the data set holds within its files and others need as files of their own.
    """

    max_concurrency = 1  # entries made into records at the same time, by threads

    def __init__(self, config: SourceConfig, seed: int, work: Path | None = None) -> None:
        self.config, self.seed, self.work = config, seed, work

    @property
    @abstractmethod
    def pictures(self) -> Path:
        """The folder that a record's picture paths are relative to."""

    @abstractmethod
    def entries(self) -> Iterator[Any]:
        """The data set's own entries. Raises InvalidArgument when the file is not of the published form at all."""

    @abstractmethod
    def record(self, entry: Any, position: int) -> Record:
        """Raises BadRecord for an entry that cannot be used."""

    def check(self) -> None:
        """Raises InvalidArgument when there is nothing to read, before anything is read."""
        name, path = self.config.name, self.config.path
        if not path.exists():
            raise InvalidArgument(f"source {name}: {path} does not exist")
        self.check_pictures()
        if not any(True for _ in self.entries()):
            raise InvalidArgument(f"source {name}: {path} is empty")

    def check_pictures(self) -> None:
        """Raises InvalidArgument when their folder is not there."""
        if not self.pictures.is_dir():
            raise InvalidArgument(f"source {self.config.name}: {self.pictures} is no folder")


def below(root: Path, relative: str) -> Path:
    """A path that data names. Raises BadRecord when it would lead out of the folder."""
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or "\0" in relative:
        raise BadRecord("picture outside its folder", relative)
    return root / path


def text_of(values: Any, key: str) -> str:
    """A text that must be there. Raises BadRecord naming the key."""
    value = values.get(key) if isinstance(values, dict) else None
    if not isinstance(value, str):
        raise BadRecord("malformed", f"{key!r} is {type(value).__name__}, not a text")
    return value


def first_of(values: Any, key: str) -> str:
    """A text or a number, or the first of a list of them, as text. Raises BadRecord naming the key."""
    found = values.get(key) if isinstance(values, dict) else None
    found = found[0] if isinstance(found, list) and found else found
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise BadRecord("malformed", f"{key!r} is {type(found).__name__}, not an answer")
    return str(found)


def drawn(choices: Sequence[str], seed: str) -> str:
    """One of them, by seed alone."""
    digest = hashlib.sha256(seed.encode("utf-8", "surrogatepass")).digest()
    return choices[int.from_bytes(digest[:8], "big") % len(choices)]


def id_of(values: Any, position: int, key: str = "id") -> str:
    """The published id, which may be a number; the position where there is none."""
    found = values.get(key) if isinstance(values, dict) else None
    return str(found) if isinstance(found, str | int) else str(position)


def json_value(path: Path) -> Any:
    """A whole JSON file. Raises InvalidArgument naming it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, *NO_JSON) as error:
        raise InvalidArgument(f"{path}: {error}") from error
