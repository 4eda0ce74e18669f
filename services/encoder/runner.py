"""Pictures to embeddings in batches. Runs on the worker thread."""

import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.encoder.pictures import decode
from triptych import traces
from triptych.card import Card
from triptych.models.embedder import Embedder, encoder_probe
from triptych.serving.probes import check_probes


class EncoderRunner:
    """Encoded images in, embeddings out."""

    def __init__(
        self,
        embedder: Embedder,
        *,
        max_batch_size: int,
        max_pixels: int,
        observe: Callable[[int, float], None] = lambda num_images, duration_ms: None,
    ) -> None:
        """`observe` is told of every batch."""
        self._observe = observe
        self._embedder = embedder
        self._max_batch_size = max_batch_size
        self._max_pixels = max_pixels

    def check(self, card: Card, folder: Path) -> float:
        """The worst cosine over the golden probes. Raises ProbeError when one falls short."""
        return check_probes(card, folder, lambda name, inputs: encoder_probe(self._embedder, name, inputs))

    def run(self, images: Sequence[bytes]) -> Generator[NDArray[np.float32], None, None]:
        """Embeddings (M, D) of each image in order, batch by batch. Raises InvalidArgument naming the image."""
        for start in range(0, len(images), self._max_batch_size):
            yield from self._embed(images, range(start, min(start + self._max_batch_size, len(images))))

    def _embed(self, images: Sequence[bytes], batch: range) -> NDArray[np.float32]:
        """(B, M, D)."""
        started = time.perf_counter()
        processor = self._embedder.processor
        with traces.span("encode batch", batch_size=len(batch)):
            # One at a time: a decoded picture is far larger than its pixel values.
            pixel_values = [
                processor.pixel_values([decode(images[i], self._max_pixels, f"images[{i}]")]) for i in batch
            ]
            embeddings = self._embedder.embed(np.concatenate(pixel_values))
            self._observe(len(batch), (time.perf_counter() - started) * 1000)
        return embeddings
