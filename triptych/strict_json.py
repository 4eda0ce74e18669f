"""JSON from others: what the standard library lets through, and we do not. Plain Python."""

import json
import stat
from pathlib import Path
from typing import Any, Final

MAX_FILE_BYTES: Final = 64 * 2**20


def parse(text: str) -> Any:
    """Raises ValueError for anything but JSON: also for NaN and Infinity, for a key that comes twice (readers would
    differ in which one they take), and for nesting deeper than Python can follow."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read(path: Path, max_bytes: int = MAX_FILE_BYTES) -> Any:
    """Of a plain file: a link could lead out of a component's folder, a pipe would never end. Raises OSError or
    ValueError."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("is not a plain file")
    if found.st_size > max_bytes:
        raise ValueError(f"has {found.st_size} bytes, must have at most {max_bytes}")
    return parse(path.read_text(encoding="utf-8"))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return values
