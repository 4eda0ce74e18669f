"""Records cut at a number of tokens, counted in the layout that the model reads."""

from dataclasses import replace
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

from services.trainer.data.mix import Length
from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.base import json_value
from triptych.errors import InvalidArgument
from triptych.prompts import TEMPLATES, ImageSlot, Message, Segment, Special, Text


@cache
def load_tokenizer(folder: Path) -> Tokenizer:
    """Plain text stays plain in it, whatever it spells. Raises InvalidArgument naming the file."""
    path = folder / "tokenizer.json"
    values = json_value(path)
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise InvalidArgument(f"{path} describes no tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no type of its own for them
        raise InvalidArgument(f"{path}: {error}") from error
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    return tokenizer


class Cutter:
    """Cuts and counts by one `Length`. Raises InvalidArgument when its tokenizer cannot be read."""

    def __init__(self, length: Length) -> None:
        self.length = length
        self.template = TEMPLATES[length.template]
        self._end = Special(self.template.eos_token, trained=True)
        self._tokenizer = load_tokenizer(length.tokenizer)

    def count(self, record: Record) -> int:
        return sum(self._size(segment) for segment in record.segments(self.template))

    def cut(self, record: Record) -> tuple[Record, int]:
        """The record, or what of it fits, and its tokens: whole turns, then as much of the next answer's text as there
        is room for; never within a picture. Raises BadRecord when no part of an answer fits."""
        room, num_done = self.length.max_tokens, 0
        for segment in record.segments(self.template):
            size = self._size(segment)
            if size > room:
                kept = self._shortened(record, num_done, segment, room)
                return kept, self.count(kept)
            room -= size
            num_done += segment == self._end
        return record, self.length.max_tokens - room

    def _shortened(self, record: Record, num_done: int, segment: Segment, room: int) -> Record:
        """`segment` is the first that does not fit; `num_done` answers before it are whole."""
        begun = replace(record.first(2 * num_done + 2), is_cut=True)
        if segment == self._end:
            return begun
        *before, answer = begun.messages
        if isinstance(segment, Text) and segment.trained and len(answer.contents) == 1:
            part = self._beginning(segment.text, room)
            begun = replace(begun, messages=(*before, Message("assistant", (part,))))
            if part:
                return begun
        if not num_done:
            raise BadRecord("too long", f"no answer within {self.length.max_tokens} tokens")
        return record.first(2 * num_done)

    def _beginning(self, text: str, room: int) -> str:
        """As much of the text as has at most `room` tokens, in whole characters."""
        ends = [end for _, end in self._tokenizer.encode(text, add_special_tokens=False).offsets]
        for end in reversed(ends[:room]):
            part = text[:end].strip()
            if len(self._ids(f" {part}")) <= room:
                return part
        return ""

    def _size(self, segment: Segment) -> int:
        if isinstance(segment, ImageSlot):
            return self.length.num_image_tokens
        return len(self._ids(segment.text)) if isinstance(segment, Text) else 1

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids
