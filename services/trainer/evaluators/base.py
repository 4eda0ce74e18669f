"""What an evaluator must say: how many items it has, and for each of them the scores and what the report shows."""

import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from triptych.errors import InvalidArgument
from triptych.models.unified import Reply, UnifiedModel
from triptych.prompts import Message, Picture, Task

MAX_SEED = 1000
ITEMS_A_SEED = 1_000_000  # seeds never share an item
THUMBNAIL = (192, 192)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What figures depend on, beside the checkpoint and the data."""

    num_scenes: int = 300
    num_records: int = 0  # of each data set, the first ones; 0: all
    seed: int = 0
    num_inference_steps: int
    guidance_scale: float
    max_tokens: int = 64
    auto_every: int = 3  # every such request on Blocks leaves the task to the model; 1: all do, 0: none
    plain_questions: bool = False  # without LLaVA's words on how to answer
    dino: Path | None = None  # a folder of DINO or DINOv2, as transformers writes it

    def __post_init__(self) -> None:
        if self.num_scenes < 1:
            raise InvalidArgument(f"num_scenes is {self.num_scenes}, must be at least 1")
        if self.num_records < 0:
            raise InvalidArgument(f"num_records is {self.num_records}, must be at least 0")
        if self.auto_every < 0:
            raise InvalidArgument(f"auto_every is {self.auto_every}, must be at least 0")
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidArgument(f"seed is {self.seed}, must be in 0..{MAX_SEED}")
        if self.dino is not None and not (self.dino / "config.json").is_file():
            raise InvalidArgument(f"{self.dino} holds no config.json: it must be a model's folder")


@dataclass(frozen=True)
class Example:
    """An item as the report shows it: captions, each with a text or a PNG. `score` from 0 (wrong) to 1 (right)."""

    score: float
    parts: tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True)
class Outcome:
    """An item's part in the figures."""

    scores: tuple[tuple[str, bool | float], ...]
    example: Example


class Evaluator(ABC):
    """Asks a model about one kind of thing. Items do not depend on each other: any process may take any of them."""

    title: ClassVar[str]
    needs_data: ClassVar[bool] = True
    draws: ClassVar[bool] = False  # whether the model must have a decoder
    bar: ClassVar[float | None] = 1.0  # an example with at least this score is a right one; None: better or worse

    def __init__(self, settings: Settings, data: Path | None) -> None:
        """Raises InvalidArgument when `data`, the data set's folder, is not of the published form."""
        self.settings = settings
        assert (data is not None) == self.needs_data
        self.folder = data or Path()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def check(self) -> None:
        """Raises InvalidArgument naming the first record that cannot be asked about, before any is. Pictures are looked
        for, not opened."""

    @abstractmethod
    def judge(self, model: UnifiedModel, index: int) -> Outcome: ...

    def at_most(self, num_records: int) -> int:
        """Records of a data set to ask about."""
        return min(num_records, self.settings.num_records or num_records)

    def seeded(self, index: int) -> int:
        """The item's number among those of all seeds."""
        return self.settings.seed * ITEMS_A_SEED + index

    def respond(
        self,
        model: UnifiedModel,
        task: Task,
        contents: tuple[str | Picture, ...],
        images: list[Image.Image],
        number: int = 0,
    ) -> Reply:
        """What the model says and draws when asked once, greedily, pictures from noise number `number`."""
        return model.respond(
            [Message("user", contents)],
            [task],
            images,
            seed=number,
            num_inference_steps=self.settings.num_inference_steps,
            guidance_scale=self.settings.guidance_scale,
            max_tokens=self.settings.max_tokens,
        )


def png(picture: Image.Image | NDArray[np.uint8]) -> bytes:
    """A small one, for the report."""
    image = picture.copy() if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.thumbnail(THUMBNAIL)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
