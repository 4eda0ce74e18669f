"""Captioned pictures, turned round: the caption becomes a request to draw, the picture what is drawn (the paper, 4.1).

Read are LLaVA-Pretrain's conversation JSON (`blip_laion_cc_sbu_558k.json`, the answer is the caption), its `_meta` file
(`{image, blip_caption}`), and lists of `{image, caption}`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.base import Source, SourceConfig, drawn, id_of, text_of
from services.trainer.data.sources.json_list import json_entries
from services.trainer.data.sources.llava import conversation, picture_names
from triptych.errors import InvalidArgument
from triptych.prompts import Message, Picture

PREFIXES = (
    "Please generate an image of",
    "Draw a picture of",
    "Create an image of",
    "I would like to see a picture of",
    "Make me a picture that shows",
    "Can you draw",
    "Show me an image of",
    "Produce a picture of",
    "Paint",
    "Generate a photo of",
    "Could you create a picture of",
    "Please draw",
    "Give me an image with",
    "Render an image of",
    "Imagine and draw",
    "Illustrate",
)


class CaptionsSource(Source):
    """`path`: the JSON file; `images`: the folder of its pictures; `prefix_file`: one prefix a line, instead of
    ours."""

    class Config(SourceConfig):
        type: Literal["captions"] = "captions"
        images: Path
        prefixes: tuple[str, ...] = Field(PREFIXES, min_length=1)
        prefix_file: Path | None = None

    config: Config

    def __init__(self, config: Config, seed: int, work: Path | None = None) -> None:
        super().__init__(config, seed, work)
        self._prefixes: tuple[str, ...] = ()

    @property
    def pictures(self) -> Path:
        return self.config.images

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Raises InvalidArgument when there are none."""
        if not self._prefixes:
            self._prefixes = tuple(prefix.strip() for prefix in self._listed() if prefix.strip())
        if not self._prefixes:
            raise InvalidArgument(f"source {self.config.name}: no prefixes")
        return self._prefixes

    def _listed(self) -> tuple[str, ...]:
        path = self.config.prefix_file
        if path is None:
            return self.config.prefixes
        if not path.is_file():
            raise InvalidArgument(f"source {self.config.name}: prefix_file {path} does not exist")
        try:
            return tuple(path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"source {self.config.name}: prefix_file {path}: {error}") from error

    def check(self) -> None:
        super().check()
        assert self.prefixes

    def entries(self) -> Iterator[Any]:
        return json_entries(self.config.path)

    def record(self, entry: Any, position: int) -> Record:
        name = id_of(entry, position)
        caption = " ".join(_caption(entry).split())
        if not caption:
            raise BadRecord("empty text", "the caption")
        prefix = drawn(self.prefixes, f"{self.seed}/{self.config.name}/{position}/{name}")
        messages = (Message("user", (f"{prefix} {caption}",)), Message("assistant", (Picture(0),)))
        made = Record(name, "generate", messages, picture_names(entry), added=(prefix,))
        made.check()
        return made


def _caption(entry: Any) -> str:
    if isinstance(entry, dict) and "conversations" in entry:
        answers = [text for role, text in conversation(entry) if role == "assistant"]
        if len(answers) != 1:
            raise BadRecord("malformed", f"{len(answers)} answers, where one is the caption")
        return answers[0]
    key = "blip_caption" if isinstance(entry, dict) and "blip_caption" in entry else "caption"
    return text_of(entry, key)
