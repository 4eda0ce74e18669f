"""Prepared samples to the tensors of a training pass."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from services.trainer.data.conversations import conversation_row
from services.trainer.data.pictures import BROKEN, SUFFIXES
from services.trainer.data.reader import PreparedSample
from services.trainer.data.records import Record
from services.trainer.data.tokens import IGNORE, RowMaker, pad_rows
from triptych.errors import FailedPrecondition
from triptych.models.processors import ImageProcessor, to_pixels
from triptych.prompts import ImageSlot, Picture, PromptTemplate
from triptych.rgb import as_rgb


@dataclass(frozen=True)
class TuningBatch:
    """Samples of one pass. B rows of T tokens, P pictures to look at, M pictures to draw, both row by row."""

    ids: Tensor  # (B, T), <image> at every patch position, padded on the right
    labels: Tensor  # (B, T), IGNORE where nothing is to be learned
    pixel_values: Tensor  # (P, 3, H, W), for the encoder
    targets: Tensor  # (M, 3, S, S) in [-1, 1], for the VAE
    target_names: tuple[str, ...]  # "row/number": row in the whole batch, number in the row

    @property
    def num_labels(self) -> int:
        """Tokens that are predicted: the first one has nothing before it."""
        return int((self.labels[:, 1:] != IGNORE).sum())

    @property
    def num_targets(self) -> int:
        return len(self.target_names)

    def to(self, device: torch.device) -> "TuningBatch":
        ids, labels = self.ids.to(device), self.labels.to(device)
        pixel_values, targets = self.pixel_values.to(device), self.targets.to(device)
        return TuningBatch(ids, labels, pixel_values, targets, self.target_names)


@dataclass(frozen=True)
class Collator:
    """For one model: its tokens and template, its encoder's pictures, its decoder's pictures (0: it has none)."""

    rows: RowMaker
    template: PromptTemplate
    pad_id: int
    processor: ImageProcessor
    target_size: int
    max_tokens: int

    def __call__(self, samples: list[tuple[int, PreparedSample]]) -> TuningBatch:
        """Samples with their rows in the whole batch. Raises InvalidArgument naming one that has no labels or is too
        long, FailedPrecondition naming one whose picture is damaged."""
        made = [conversation_row(s.record, self.template, self.rows, self.max_tokens) for _, s in samples]
        ids, labels = pad_rows(made, max(len(row.ids) for row in made), self.pad_id)
        seen = [_picture(s, index) for _, s in samples for index in _slots(s.record, self.template)]
        drawn = [(row, s, index) for row, s in samples for index in _drawn(s.record)] if self.target_size else []
        edge = (self.target_size, self.target_size)
        targets = [np.asarray(ImageOps.fit(_picture(s, i), edge, Image.Resampling.BICUBIC)) for _, s, i in drawn]
        names = tuple(f"{row}/{index}" for row, _, index in drawn)
        size = self.processor.size
        return TuningBatch(
            ids,
            labels,
            self.processor(seen) if seen else torch.zeros(0, 3, size, size),
            to_pixels(np.stack(targets)) if targets else torch.zeros(0, 3, *edge),
            names,
        )

    def num_tokens(self, record: Record) -> int:
        """As this model reads it."""
        return len(self.rows.row(record.segments(self.template)).ids)


def _slots(record: Record, template: PromptTemplate) -> list[int]:
    """The pictures that are looked at, as they stand in the sequence; one that was drawn is seen again later."""
    return [segment.index for segment in record.segments(template) if isinstance(segment, ImageSlot)]


def _drawn(record: Record) -> list[int]:
    said = [content for message in record.messages if message.role == "assistant" for content in message.contents]
    return [content.index for content in said if isinstance(content, Picture)]


def _picture(sample: PreparedSample, index: int) -> Image.Image:
    try:
        with Image.open(io.BytesIO(sample.pictures[index]), formats=list(SUFFIXES)) as image:
            return as_rgb(image)
    except BROKEN as error:
        raise FailedPrecondition(f"sample {sample.key} ({sample.record.id}), picture {index}: {error}") from error
