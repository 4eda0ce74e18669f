"""ShareGPT's text conversations: a list of `{id, conversations: [{from, value}]}`, as Vicuna was trained on.

Unwanted entries are left out as Vicuna's authors did: turns out of order, empty ones, other speakers, and those that
say one of `unwanted`. Entries longer than the mix's `length` are cut, not split (the paper, 4.1).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.base import Source, SourceConfig, id_of, text_of
from services.trainer.data.sources.json_list import json_entries
from triptych.prompts import Message

ROLES: dict[str, Literal["user", "assistant"]] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
}


class ShareGptSource(Source):
    """`path`: the JSON file. A text is text, whatever it spells: `<image>` stands for no picture here."""

    class Config(SourceConfig):
        type: Literal["sharegpt"] = "sharegpt"
        unwanted: tuple[str, ...] = ()

    config: Config

    @property
    def pictures(self) -> Path:
        return self.config.path.parent

    def entries(self) -> Iterator[Any]:
        return json_entries(self.config.path)

    def record(self, entry: Any, position: int) -> Record:
        turns = entry.get("conversations") if isinstance(entry, dict) else None
        if not isinstance(turns, list):
            raise BadRecord("malformed", "no list of conversations")
        messages = [self._message(turn) for turn in turns]
        if messages and messages[0].role == "assistant":
            messages = messages[1:]
        if messages and messages[-1].role == "user":  # nobody answered
            messages = messages[:-1]
        made = Record(id_of(entry, position), "understand", tuple(messages))
        made.check()
        return made

    def _message(self, turn: Any) -> Message:
        speaker, text = text_of(turn, "from"), text_of(turn, "value")
        if speaker not in ROLES:
            raise BadRecord("unknown speaker", speaker)
        folded = text.casefold()
        for phrase in self.config.unwanted:
            if phrase.casefold() in folded:
                raise BadRecord("unwanted phrase", phrase)
        return Message(ROLES[speaker], (text.strip(),))
