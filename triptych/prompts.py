"""Conversations to prompt segments: the one place that knows a model's chat template. Plain Python, shared by the
orchestrator (which sends the segments to the LLM) and the trainer (which learns from them), so both lay out alike.

Sequence layout and defaults: docs/architecture.md; the GenLLaVA paper leaves it open (section 4.2, Fig. A1).
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
TASK_TOKENS = {"understand": "[I2T]", "generate": "[T2I]", "edit": "[T2I]"}
Task = Literal["auto", "understand", "generate", "edit"]


@dataclass(frozen=True)
class Text:
    """Plain text: never parsed for special tokens, whatever it spells."""

    text: str
    trained: bool = False


@dataclass(frozen=True)
class Special:
    """One special token by name."""

    token: str
    trained: bool = False


@dataclass(frozen=True)
class ImageSlot:
    """The projected embeddings of the conversation's `index`-th picture stand here."""

    index: int
    trained: bool = False


Segment = Text | Special | ImageSlot


@dataclass(frozen=True)
class Picture:
    """A picture in a message; `index` counts the conversation's pictures from 0, whoever made them."""

    index: int


@dataclass(frozen=True)
class Message:
    """One turn of one side: texts and pictures in reading order."""

    role: Literal["user", "assistant"]
    contents: tuple[str | Picture, ...]


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """How a conversation becomes one sequence.

    `task_token_position`: `sequence_start` right after BOS (the last turn's task), in each `user_turn`, or `none`.
    `image_position`: a user's pictures `after_bos` (first turn's only; later ones at their turn's start), at the
    `turn_start`, or `inline` where the message has them. A picture the assistant drew stays in the sequence as its
    [IMG] tokens and is seen again, re-encoded, at the start of the next user turn. `image_prefix` and `image_suffix`
    stand around every picture that is seen; after a suffix, text follows without a space. Between `system` and the
    first turn there is one space, `user_prefix`'s own where it begins with one.
    """

    system: str = VICUNA_SYSTEM
    user_prefix: str = "USER:"
    assistant_prefix: str = " ASSISTANT:"
    bos_token: str = "<s>"
    eos_token: str = "</s>"
    num_img_tokens: int = 16
    task_token_position: Literal["sequence_start", "user_turn", "none"] = "sequence_start"
    image_position: Literal["after_bos", "turn_start", "inline"] = "after_bos"
    image_prefix: str = ""
    image_suffix: str = ""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Raises ValueError on an unknown key."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown prompt template keys: {sorted(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def image_tokens(self) -> tuple[str, ...]:
        """The tokens of one drawn picture, [SOI] to [EOI]."""
        return ("[SOI]", *(f"[IMG{k}]" for k in range(self.num_img_tokens)), "[EOI]")

    def segments(self, messages: list[Message], tasks: list[Task]) -> list[Segment]:
        """Lays out the conversation; `tasks` holds one task per user turn. If the last message is the user's, the
        sequence ends with the open assistant prefix, ready to generate. Raises ValueError when there is no user turn.
        """
        users = [m for m in messages if m.role == "user"]
        if len(users) != len(tasks) or not users:
            raise ValueError(f"{len(tasks)} tasks for {len(users)} user turns")
        segments: list[Segment] = [Special(self.bos_token)]
        if self.task_token_position == "sequence_start" and tasks[-1] != "auto":
            segments.append(Special(TASK_TOKENS[tasks[-1]]))
        hoisted = _pictures(users[0]) if self.image_position == "after_bos" else ()
        for picture in hoisted:
            segments += self._image(picture)
        if self.system:
            segments.append(Text(self.system + ("" if self.user_prefix.startswith(" ") else " ")))
        drawn: tuple[Picture, ...] = ()
        turn = 0
        for message in messages:
            if message.role == "user":
                task = tasks[turn] if self.task_token_position == "user_turn" else "auto"
                segments += self._user(message, task, drawn, skip=hoisted if turn == 0 else ())
                drawn, turn = (), turn + 1
            else:
                segments += self._assistant(message)
                drawn += _pictures(message)
        return segments

    def _user(
        self, message: Message, task: Task, drawn: tuple[Picture, ...], skip: tuple[Picture, ...]
    ) -> list[Segment]:
        segments: list[Segment] = [Text(self.user_prefix)]
        if task != "auto":
            segments.append(Special(TASK_TOKENS[task]))
        for picture in drawn:
            segments += self._image(picture)
        contents: tuple[str | Picture, ...] = tuple(c for c in message.contents if c not in skip)
        if self.image_position != "inline":
            contents = (*_pictures(message, skip), *(c for c in contents if isinstance(c, str)))
        for content in contents:
            if isinstance(content, Picture):
                segments += self._image(content)
            else:
                space = "" if self.image_suffix and segments[-1] == Text(self.image_suffix) else " "
                segments.append(Text(space + content.strip()))
        return [*segments, Text(self.assistant_prefix)]

    def _image(self, picture: Picture) -> list[Segment]:
        around = (Text(self.image_prefix), ImageSlot(picture.index), Text(self.image_suffix))
        return [segment for segment in around if not isinstance(segment, Text) or segment.text]

    def _assistant(self, message: Message) -> list[Segment]:
        segments: list[Segment] = []
        for content in message.contents:
            if isinstance(content, Picture):
                segments += [Special(token, trained=True) for token in self.image_tokens]
            else:
                segments.append(Text(" " + content.strip(), trained=True))
        return [*segments, Special(self.eos_token, trained=True)]


def _pictures(message: Message, skip: tuple[Picture, ...] = ()) -> tuple[Picture, ...]:
    return tuple(c for c in message.contents if isinstance(c, Picture) and c not in skip)


# Published templates, by LLaVA's names for them; `dataclasses.replace` adds what a model does differently.
# `genllava` is vicuna_v1 as Mistral's tokenizer reads it: spaces belong to the words after them, the first has one too.
TEMPLATES = {
    "vicuna_v1": PromptTemplate(),
    "mistral_instruct": PromptTemplate(system="", user_prefix="[INST]", assistant_prefix=" [/INST]"),
    "genllava": PromptTemplate(system=f" {VICUNA_SYSTEM}", user_prefix=" USER:"),
}
