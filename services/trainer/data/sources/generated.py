"""Pictures without text: questions and answers are written by a model behind an OpenAI-compatible endpoint.

The paper had GPT-4V write instructions; which model is asked, what and how fast, is the recipe's (`endpoint`,
`prompt`).
"""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import Field

from services.trainer.data.generate import Endpoint, Refused, Writer
from services.trainer.data.pictures import read_picture
from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.base import NO_JSON, Source, SourceConfig, below
from triptych.prompts import Message, Picture
from triptych.rgb import as_rgb

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
PROMPT = (
    "Write {num_turns} questions that a person might ask about this picture, with answers that can be checked by "
    "looking at it. Reply with a JSON list of objects with the keys question and answer, and nothing else."
)
FENCE = re.compile(r"^```\w*\s*|\s*```$")


class GeneratedSource(Source):
    """`path`: the folder of pictures, gone through by name; `cache`: the folder of answers, kept between runs."""

    class Config(SourceConfig):
        type: Literal["generated"] = "generated"
        endpoint: Endpoint
        cache: Path
        prompt: str = PROMPT
        num_turns: int = Field(3, ge=1)
        max_side: int = Field(768, ge=16, description="pixels of the longer side that is sent")

    config: Config

    def __init__(self, config: Config, seed: int, work: Path | None = None) -> None:
        super().__init__(config, seed, work)
        self.max_concurrency = config.endpoint.max_concurrency
        self._writer = Writer(config.endpoint, config.cache)

    @property
    def pictures(self) -> Path:
        return self.config.path

    def check(self) -> None:
        super().check()
        self.config.endpoint.key()

    def entries(self) -> Iterator[Any]:
        found = (path for path in sorted(self.config.path.rglob("*")) if path.suffix.lower() in SUFFIXES)
        return (path.relative_to(self.config.path).as_posix() for path in found)

    def record(self, entry: Any, position: int) -> Record:
        """Raises Unavailable or FailedPrecondition when the endpoint is not there; what was answered is kept."""
        prompt = self.config.prompt.replace("{num_turns}", str(self.config.num_turns))
        try:
            answer = self._writer.ask(prompt, self._jpeg(entry))
        except Refused as error:
            raise BadRecord("generation refused", str(error)) from None
        made = Record(entry, "understand", tuple(_messages(answer)), (entry,))
        made.check()
        return made

    def _jpeg(self, name: str) -> bytes:
        data = read_picture(below(self.config.path, name)).data
        image = as_rgb(Image.open(io.BytesIO(data)))
        image.thumbnail((self.config.max_side, self.config.max_side))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        return buffer.getvalue()


def _messages(answer: str) -> Iterator[Message]:
    try:
        pairs = json.loads(FENCE.sub("", answer.strip()))
        told = [(pair["question"], pair["answer"]) for pair in pairs]
    except (LookupError, TypeError, *NO_JSON):
        raise BadRecord("malformed", f"not a list of questions and answers: {answer[:100]!r}") from None
    if not all(isinstance(text, str) for pair in told for text in pair):
        raise BadRecord("malformed", "a question or an answer is no text")
    for index, (question, said) in enumerate(told):
        yield Message("user", (Picture(0), question) if index == 0 else (question,))
        yield Message("assistant", (said,))
