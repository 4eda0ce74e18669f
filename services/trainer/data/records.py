"""A record: one conversation with its pictures, in the one form that every reader yields and every shard holds.

Superset of LLaVA's JSON: texts and pictures stand in reading order as they do in `triptych.prompts`, so that a text
which happens to spell `<image>` stays text.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from triptych.prompts import Message, Picture, PromptTemplate, Segment, Task

HALF_CHARACTER = re.compile("[\ud800-\udfff]")
Reason = Literal[
    "malformed",
    "no conversation",
    "unknown speaker",
    "turns out of order",
    "empty text",
    "placeholders do not match pictures",
    "picture missing",
    "picture outside its folder",
    "picture unreadable",
    "picture too large",
    "too long",
    "unwanted phrase",
    "generation refused",
]


class BadRecord(Exception):
    """One record of a source cannot be used; it is counted by `reason` and listed, and the rest goes on."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: Reason = reason
        self.detail = detail[:300]


@dataclass(frozen=True)
class Record:
    """`Picture(i)` in a message is `pictures[i]`: a path below the source's picture folder, in a shard a member's
    suffix.

    `task` is that of every user turn. `added` are texts that the reader put in by itself (a prefix, the form of the
    answer), which say nothing about whether two records are alike. `is_cut`: the last answer goes on, but not here.
    """

    id: str
    task: Task
    messages: tuple[Message, ...]
    pictures: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    is_cut: bool = False

    def segments(self, template: PromptTemplate) -> list[Segment]:
        """As `PromptTemplate.segments`; a cut answer is not ended, so that no model learns to stop there."""
        num_users = sum(message.role == "user" for message in self.messages)
        segments = template.segments(list(self.messages), [self.task] * num_users)
        return segments[:-1] if self.is_cut else segments

    def first(self, num_messages: int) -> "Record":
        """The record up to there, with the pictures that are left."""
        messages = self.messages[:num_messages]
        return replace(self, messages=messages, pictures=self.pictures[: len(_pictures(messages))])

    def check(self) -> None:
        """Raises BadRecord unless user and assistant take turns, nothing is empty, and every picture stands once."""
        if not self.messages:
            raise BadRecord("no conversation")
        roles = [message.role for message in self.messages]
        if len(roles) % 2 or any(role != ("user", "assistant")[i % 2] for i, role in enumerate(roles)):
            raise BadRecord("turns out of order", " ".join(roles[:20]))
        for index, message in enumerate(self.messages):
            if not message.contents or any(isinstance(c, str) and not c.strip() for c in message.contents):
                raise BadRecord("empty text", f"message {index}")
            if any(isinstance(c, str) and HALF_CHARACTER.search(c) for c in message.contents):
                raise BadRecord("malformed", f"half a surrogate pair in message {index}")
        shown = _pictures(self.messages)
        if [p.index for p in shown] != list(range(len(self.pictures))):
            raise BadRecord("placeholders do not match pictures", f"{len(shown)} for {len(self.pictures)} pictures")

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "task": self.task,
            "messages": [_message_dict(message) for message in self.messages],
            "pictures": list(self.pictures),
            "added": list(self.added),
            "is_cut": self.is_cut,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Record":
        messages = tuple(_message(message) for message in values["messages"])
        pictures, added = tuple(values["pictures"]), tuple(values["added"])
        return cls(values["id"], values["task"], messages, pictures, added, values["is_cut"])


def _pictures(messages: tuple[Message, ...]) -> list[Picture]:
    return [c for message in messages for c in message.contents if isinstance(c, Picture)]


def _message_dict(message: Message) -> dict[str, Any]:
    contents = [{"picture": c.index} if isinstance(c, Picture) else c for c in message.contents]
    return {"role": message.role, "contents": contents}


def _message(values: dict[str, Any]) -> Message:
    contents = tuple(c if isinstance(c, str) else Picture(c["picture"]) for c in values["contents"])
    return Message(values["role"], contents)
