"""The tensors of the encoder service. Runs on the worker thread."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from services.encoder.pictures import decode
from triptych.card import Card
from triptych.models.encoder_stage import EncoderStage
from triptych.models.placement import DTYPES, Placement
from triptych.models.probes import encoder_probe
from triptych.serving.probes import check_probes


class EncoderRunner:
    """Encoded images in, embeddings out."""

    def __init__(self, stage: EncoderStage, placement: Placement, *, max_batch_size: int, max_pixels: int) -> None:
        self._stage = placement.place(stage)
        self._placement = placement
        self._max_batch_size = max_batch_size
        self._max_pixels = max_pixels

    @classmethod
    def load(cls, folder: Path, placement: Placement, **bounds: Any) -> Self:
        """Raises CheckpointError naming what is missing or wrong in `folder`."""
        return cls(EncoderStage.load(folder), placement, **bounds)

    def check(self, card: Card, folder: Path) -> float:
        """The worst cosine over the golden probes. Raises ProbeError when one falls short."""
        return check_probes(card, folder, lambda name, inputs: encoder_probe(self._stage, name, inputs))

    def run(self, images: Sequence[bytes]) -> Generator[NDArray[np.float32], None, None]:
        """Embeddings (M, D) of each image in order, batch by batch. Raises InvalidArgument naming the image."""
        for start in range(0, len(images), self._max_batch_size):
            yield from self._embed(images, range(start, min(start + self._max_batch_size, len(images))))

    @torch.inference_mode()
    def _embed(self, images: Sequence[bytes], batch: range) -> NDArray[np.float32]:
        """(B, M, D)."""
        # One at a time: a decoded picture is far larger than its pixel values.
        pixel_values = [self._stage.preprocess([decode(images[i], self._max_pixels, f"images[{i}]")]) for i in batch]
        stacked = torch.cat(pixel_values).to(self._placement.device, DTYPES[self._placement.dtype])
        return self._stage(stacked).float().cpu().numpy()  # type: ignore[no-any-return]
