"""JSON lists too large to hold: one entry at a time. JSON lines likewise."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from services.trainer.data.sources.base import NO_JSON
from triptych.errors import InvalidArgument

CHUNK_CHARS = 1 << 20
BLANK = " \t\r\n"


def json_entries(path: Path) -> Iterator[Any]:
    """Entries of a JSON list, or of JSON lines (by the name's ending).

    Raises InvalidArgument naming the file and the place where it stops being what it should be: a half-copied file is
    no matter of single records. A line that is no JSON is given as its text, for the reader to refuse.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _lines(file) if path.suffix == ".jsonl" else _items(file, path)
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} is not UTF-8: {error}") from error
    except (OSError, *NO_JSON) as error:
        raise InvalidArgument(f"{path}: {error}") from error


def _lines(file: TextIO) -> Iterator[Any]:
    for line in file:
        if line.strip():
            try:
                entry = json.loads(line)
            except NO_JSON:
                entry = line
            yield entry


def _items(file: TextIO, path: Path) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    text = ""
    while not text and (chunk := file.read(CHUNK_CHARS)):
        text = chunk.lstrip(BLANK)
    if not text.startswith("["):
        raise InvalidArgument(f"{path} is no JSON list: it begins with {text[:20]!r}")
    at, more, number = 1, True, 0
    while True:
        while at < len(text) and text[at] in BLANK + ",":
            at += 1
        if text.startswith("]", at):
            if rest := (text[at + 1 :] + file.read()).strip(BLANK):
                raise InvalidArgument(f"{path} goes on after its list: {rest[:40]!r}")
            return
        item, end = _item(decoder, text, at)
        if end is None:  # half of it may be in the next chunk
            if not more:
                raise InvalidArgument(f"{path}: entry {number} is cut off or no JSON: {text[at : at + 40]!r}")
            chunk = file.read(max(CHUNK_CHARS, len(text) - at))
            text, at, more = text[at:] + chunk, 0, bool(chunk)
            continue
        yield item
        at, number = end, number + 1


def _item(decoder: json.JSONDecoder, text: str, at: int) -> tuple[Any, int | None]:
    """A value and where it ends; None where it is not there whole, which is known by the comma or bracket after it."""
    try:
        item, end = decoder.raw_decode(text, at)
    except json.JSONDecodeError:
        return None, None
    while end < len(text) and text[end] in BLANK:
        end += 1
    return (item, end) if end < len(text) and text[end] in ",]" else (None, None)
