"""LLaVA's conversation JSON: a list of `{id, image?, conversations: [{from: human|gpt, value}]}`, `<image>` in the
text.

LLaVA-Finetune, LVIS-Instruct4V and ShareGPT4V are published so. Extension read as well:
a list of names under `image` or `images`, one `<image>` for each.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.base import Source, SourceConfig, id_of, text_of
from services.trainer.data.sources.json_list import json_entries
from triptych.prompts import Message, Picture

IMAGE = "<image>"
ROLES: dict[str, Literal["user", "assistant"]] = {"human": "user", "gpt": "assistant"}


class LlavaSource(Source):
    """`path`: the JSON file; `images`: the folder its picture names are relative to."""

    class Config(SourceConfig):
        type: Literal["llava"] = "llava"
        images: Path

    config: Config

    @property
    def pictures(self) -> Path:
        return self.config.images

    def entries(self) -> Iterator[Any]:
        return json_entries(self.config.path)

    def record(self, entry: Any, position: int) -> Record:
        """As LLaVA trains: what is said before the first human turn is left out, and without a picture `<image>` is
        text."""
        names = picture_names(entry)
        messages = tuple(messages_of(conversation(entry), bool(names)))
        made = Record(id_of(entry, position), "understand", messages, names)
        made.check()
        return made


def conversation(entry: Any) -> list[tuple[Literal["user", "assistant"], str]]:
    """(role, text) of every turn from the first human one on. Raises BadRecord."""
    turns = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(turns, list):
        raise BadRecord("malformed", "no list of conversations")
    speakers = [text_of(turn, "from") for turn in turns]
    if unknown := sorted(set(speakers) - set(ROLES)):
        raise BadRecord("unknown speaker", ", ".join(unknown))
    if not speakers:
        raise BadRecord("no conversation")
    start = 1 if speakers[0] == "gpt" else 0
    return [(ROLES[s], text_of(turn, "value")) for s, turn in zip(speakers[start:], turns[start:], strict=True)]


def picture_names(entry: dict[str, Any]) -> tuple[str, ...]:
    found = entry.get("image", entry.get("images")) if isinstance(entry, dict) else None
    names = [] if found is None else found if isinstance(found, list) else [found]
    if not all(isinstance(name, str) and name for name in names):
        raise BadRecord("malformed", f"image is {found!r}")
    return tuple(names)


def messages_of(turns: list[tuple[Literal["user", "assistant"], str]], has_pictures: bool) -> Iterator[Message]:
    """`<image>` in a user's text is the next picture. Raises BadRecord for one in an answer."""
    num_seen = 0
    for role, text in turns:
        parts = re.split(f"({IMAGE})", text) if has_pictures else [text]
        contents: list[str | Picture] = []
        for part in parts:
            if has_pictures and part == IMAGE:
                contents.append(Picture(num_seen))
                num_seen += 1
            elif part.strip():
                contents.append(part.strip())
        if has_pictures and role == "assistant" and any(isinstance(c, Picture) for c in contents):
            raise BadRecord("placeholders do not match pictures", "a placeholder in an answer")
        yield Message(role, tuple(contents))
