"""Encode requests one after another on the worker thread, each in batches of its own images."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.encoder.backends import Backend
from services.encoder.config import EncoderConfig
from services.encoder.runner import EncoderRunner
from triptych import traces
from triptych.card import Card, verify_digest
from triptych.serving.batching import Load, Timing, Worker
from triptych.serving.metrics import Metrics

BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128)


class EncoderEngine:
    """A request that is abandoned leaves the queue at once, or stops after the batch that runs."""

    def __init__(self, config: EncoderConfig, card: Card, backend: Backend, metrics: Metrics) -> None:
        self._config = config
        self._card = card
        self._backend = backend
        self._worker = Worker("encoder", config.max_queue_size)
        self._images = metrics.counter("images", "images embedded")
        self._queued_ms = metrics.histogram_ms("queued", "time from arrival to the first batch")
        self._running_ms = metrics.histogram_ms("running", "time to embed all images of a request")
        self._batch_ms = metrics.histogram_ms("batch", "duration of one forward pass, preprocessing included")
        self._batch_images = metrics.histogram("batch_images", "images in one forward pass", BATCH_BUCKETS)
        metrics.gauge("requests_running", "requests being embedded", lambda: self.load.num_running)
        metrics.gauge("requests_waiting", "requests in the queue", lambda: self.load.num_waiting)

    @property
    def load(self) -> Load:
        return self._worker.load

    async def start(self) -> float:
        """Loads the component and returns the worst cosine over its probes; raises CheckpointError or ProbeError."""
        self._runner, cosine = await self._worker.start(self._load)
        return cosine

    async def encode(self, images: Sequence[bytes], timing: Timing) -> AsyncGenerator[NDArray[np.float32], None]:
        """Embeddings (M, D) of each image, in order. Raises InvalidArgument naming the image that cannot be read."""
        async with aclosing(self._worker.timed_stream(timing, self._runner.run, images)) as results:
            async for embeddings in results:
                self._images.inc()
                yield embeddings
        self._queued_ms.observe(timing.queued_ms, traces.exemplar())
        self._running_ms.observe(timing.running_ms, traces.exemplar())

    async def stop(self) -> None:
        await self._worker.close()

    def _observe(self, num_images: int, duration_ms: float) -> None:
        self._batch_images.observe(num_images)
        self._batch_ms.observe(duration_ms, traces.exemplar())

    def _load(self) -> tuple[EncoderRunner, float]:
        folder = self._config.checkpoint
        verify_digest(folder, self._card)
        bounds = {"max_batch_size": self._config.max_batch_size, "max_pixels": self._config.max_pixels}
        runner = EncoderRunner(self._backend.load(folder), observe=self._observe, **bounds)
        return runner, runner.check(self._card, folder)
