"""Parquet: a file or a folder of them, as the `datasets` library publishes its sets, pictures within or beside.

What stands in which column is the recipe's to say; one of three forms:

conversations  LLaVA's turns `[{from: human|gpt, value}]`, as a list or as JSON text
question, answer  one turn; of several answers the first
caption  a description: what was asked is one of `requests`, drawn by seed (laion-gpt4v: `link`, `caption`)
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, model_validator

from services.trainer.data.files import write_atomic
from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.base import NO_JSON, Source, SourceConfig, drawn, first_of, id_of, text_of
from services.trainer.data.sources.llava import IMAGE, conversation, messages_of
from services.trainer.data.sources.parquet_rows import parquet_files, parquet_rows
from triptych.prompts import Message, Picture

REQUESTS = (
    "Describe this picture in detail.",
    "What can be seen here?",
    "Give a thorough account of this image.",
    "Tell me everything that this picture shows.",
    "Please describe the image.",
    "Explain what is going on in this picture.",
    "Write a detailed description of what you see.",
    "What does this image show?",
)


class ParquetSource(Source):
    """`picture` is a column of encoded bytes, of `{bytes, path}`, of names or links, or of lists of these.

    Pictures in the rows are written into the mix's work folder under their digest, each once. Names and links are
    looked for below `images`, a link at host/path: where `wget --force-directories` puts what it fetches.
    """

    class Config(SourceConfig):
        type: Literal["parquet"] = "parquet"
        files: str = Field("*.parquet", description="which of a folder's")
        images: Path | None = Field(None, description="the folder of pictures that rows name")
        id: str = Field("id", description="column; need not be there")
        picture: str = Field("image", description="column; empty: no pictures")
        conversations: str | None = None
        question: str | None = None
        answer: str | None = None
        caption: str | None = None
        requests: tuple[str, ...] = Field(REQUESTS, min_length=1)

        @model_validator(mode="after")
        def _one_form(self) -> Self:
            given = {name for name in ("conversations", "question", "answer", "caption") if getattr(self, name)}
            if given not in ({"conversations"}, {"question", "answer"}, {"caption"}):
                raise ValueError(
                    f"columns of conversations, of question and answer, or of caption, not {sorted(given)}"
                )
            if self.caption and not self.picture:
                raise ValueError("captions without a picture column")
            return self

    config: Config

    @property
    def pictures(self) -> Path:
        if self.config.images is not None:
            return self.config.images
        assert self.work is not None  # whoever reads the records has one
        return self.work / "pictures"

    def check_pictures(self) -> None:
        if self.config.images is not None:
            super().check_pictures()

    def entries(self) -> Iterator[Any]:
        c = self.config
        columns = [name for name in (c.picture, c.conversations, c.question, c.answer, c.caption) if name]
        return parquet_rows(parquet_files(c.path, c.files), columns, c.id)

    def record(self, entry: Any, position: int) -> Record:
        """Writes the entry's pictures when it is a good one and they stand within."""
        if not isinstance(entry, dict):
            raise BadRecord("malformed", str(entry))
        cells = entry.get(self.config.picture)
        shown = [] if cells is None else cells if isinstance(cells, list) else [cells]
        named = [self._named(cell) for cell in shown]
        name = id_of(entry, position, self.config.id)
        messages, added = self._said(entry, len(named), f"{position}/{name}")
        made = Record(name, "understand", messages, tuple(path for path, _ in named), added)
        made.check()
        for path, data in named:
            if data is not None and not (self.pictures / path).exists():
                write_atomic(self.pictures / path, data)
        return made

    def _named(self, cell: Any) -> tuple[str, bytes | None]:
        """A picture's path below `pictures`, and the bytes to be written there."""
        data = cell.get("bytes") if isinstance(cell, dict) else cell if isinstance(cell, bytes) else None
        name = cell.get("path") if isinstance(cell, dict) else cell if isinstance(cell, str) else None
        if self.config.images is None:
            if not isinstance(data, bytes):
                raise BadRecord("picture missing", f"no bytes: {name}")
            digest = hashlib.sha256(data).hexdigest()
            return f"{digest[:2]}/{digest}", data
        if not isinstance(name, str) or not name:
            raise BadRecord("picture missing", "neither name nor link")
        return _path(name), None

    def _said(self, entry: Any, num_pictures: int, drawn_for: str) -> tuple[tuple[Message, ...], tuple[str, ...]]:
        """The messages, and what of them is the reader's own."""
        if self.config.conversations:
            return _conversation(entry[self.config.conversations], num_pictures), ()
        if self.config.picture and not num_pictures:
            raise BadRecord("picture missing", "none in the row")
        shown = tuple(Picture(index) for index in range(num_pictures))
        if self.config.caption:
            asked = drawn(self.config.requests, f"{self.seed}/{self.config.name}/{drawn_for}")
            answer = text_of(entry, self.config.caption).strip()
            return (Message("user", (*shown, asked)), Message("assistant", (answer,))), (asked,)
        assert self.config.question
        assert self.config.answer
        question = text_of(entry, self.config.question).strip()
        answer = first_of(entry, self.config.answer).strip()
        return (Message("user", (*shown, question)), Message("assistant", (answer,))), ()


def _conversation(turns: Any, num_pictures: int) -> tuple[Message, ...]:
    """LLaVA's; one in which no picture has a place begins with them."""
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except NO_JSON as error:
            raise BadRecord("malformed", f"conversations are no JSON: {error}") from None
    said = conversation({"conversations": turns})
    if num_pictures and said and not any(IMAGE in text for _, text in said):
        said[0] = (said[0][0], IMAGE * num_pictures + said[0][1])
    return tuple(messages_of(said, num_pictures > 0))


def _path(name: str) -> str:
    """Of a link, host and path; a name as it is."""
    try:
        link = urlsplit(name)
    except ValueError as error:
        raise BadRecord("picture missing", f"{name}: {error}") from None
    if link.scheme not in ("http", "https"):
        return name
    query = f"?{link.query}" if link.query else ""
    return unquote(f"{link.netloc}{link.path}{query}")
