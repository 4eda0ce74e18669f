"""Encode requests one after another on the worker thread, each in batches of its own images."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import numpy as np
from numpy.typing import NDArray

from services.encoder.backends import Backend
from services.encoder.config import EncoderConfig
from services.encoder.runner import EncoderRunner
from triptych.card import Card, verify_digest
from triptych.serving.batching import Load, Timing, Worker
from triptych.serving.metrics import Metrics


class EncoderEngine:
    """A request that is abandoned leaves the queue at once, or stops after the batch that runs."""

    def __init__(self, config: EncoderConfig, card: Card, backend: Backend, metrics: Metrics) -> None:
        self._config = config
        self._card = card
        self._backend = backend
        self._worker = Worker("encoder", config.max_queue_size)
        self._images = metrics.counter("images", "images embedded")
        self._queued_ms = metrics.histogram_ms("queued", "time a request waited for its first batch")
        metrics.gauge("requests_waiting", "requests in the queue", lambda: self.load.num_waiting)

    @property
    def load(self) -> Load:
        return self._worker.load

    async def start(self) -> float:
        """Loads the component and returns the worst cosine over its probes; raises CheckpointError or ProbeError."""
        self._runner, cosine = await self._worker.run(self._load)
        return cosine

    async def encode(self, images: Sequence[bytes], timing: Timing) -> AsyncGenerator[NDArray[np.float32], None]:
        """Embeddings (M, D) of each image, in order. Raises InvalidArgument naming the image that cannot be read."""
        async with aclosing(self._worker.timed_stream(timing, self._runner.run, images)) as results:
            is_first = True
            async for embeddings in results:
                if is_first:
                    self._queued_ms.observe(timing.queued_ms)
                    is_first = False
                self._images.inc()
                yield embeddings

    async def stop(self) -> None:
        await self._worker.close()

    def _load(self) -> tuple[EncoderRunner, float]:
        folder = self._config.checkpoint
        verify_digest(folder, self._card)
        bounds = {"max_batch_size": self._config.max_batch_size, "max_pixels": self._config.max_pixels}
        runner = EncoderRunner(self._backend.load(folder), **bounds)
        return runner, runner.check(self._card, folder)
