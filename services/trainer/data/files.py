"""Files that are there whole or not at all."""

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

PARTIAL = ".partial"


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name when it is whole. Two writers of the same file do not meet: the last one
    wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{uuid.uuid4().hex}{PARTIAL}"
    try:
        with partial.open("wb+") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            partial.replace(path)
        except FileNotFoundError:  # whoever wrote the same before, and then ended the mix, has cleared it away
            if not path.exists():
                raise
    finally:
        partial.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    with atomic(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())


def write_first(path: Path, value: Any) -> bool:
    """JSON, by a hard link: what is there stays, so of two writers at the same time the first one wins. Returns whether
    this was it."""
    partial = path.parent / f".{path.name}.{uuid.uuid4().hex}{PARTIAL}"
    write_json(partial, value)
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    return True


def write_lines(path: Path, rows: Iterable[Any]) -> int:
    """JSON lines; returns how many."""
    number = 0
    with atomic(path) as file:
        for row in rows:
            file.write(line(row))
            number += 1
    return number


def line(row: Any) -> bytes:
    """One JSON line, in ASCII: published texts hold halves of surrogate pairs, which UTF-8 has no bytes for."""
    return (json.dumps(row, separators=(",", ":")) + "\n").encode()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        for row in file:
            yield json.loads(row)
