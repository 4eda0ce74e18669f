"""A conversation's pictures to embeddings: checked and normalised on a thread, found in the cache or encoded."""

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from services.orchestrator.cache import EmbeddingCache, Embeddings
from services.orchestrator.images import normalise
from services.orchestrator.metrics import OrchestratorMetrics
from services.orchestrator.request import Upload
from services.orchestrator.routing import Candidate
from services.orchestrator.stages import Stages
from services.orchestrator.tally import Tally
from triptych import traces


@dataclass(frozen=True)
class Picture:
    """A checked upload. `digest` is the sha256 of its bytes; `png` is empty where its embeddings were at hand."""

    upload: Upload
    digest: str
    png: bytes


class Embedder:
    """Shared by all requests; decodes at most `num_threads` pictures at a time."""

    def __init__(
        self,
        cache: EmbeddingCache,
        metrics: OrchestratorMetrics,
        *,
        max_pixels: int,
        max_batch_bytes: int,
        num_threads: int,
    ) -> None:
        """`max_batch_bytes` bounds the pictures of one Encode call; a larger picture goes alone."""
        self._cache = cache
        self._metrics = metrics
        self._max_pixels = max_pixels
        self._max_batch_bytes = max_batch_bytes
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="images")

    async def check(self, uploads: Sequence[Upload], encoders: Sequence[Candidate]) -> list[Picture]:
        """Raises InvalidArgument for the first upload that is no picture. One whose embeddings are at hand for any of
        `encoders` was checked when they were made.
        """
        digests = [encoder.card.digest for encoder in encoders]
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(self._threads, self._checked, upload, digests) for upload in uploads]

    async def embed(
        self, pictures: Sequence[Picture], encoder: Candidate, stages: Stages, tally: Tally
    ) -> list[Embeddings]:
        """One array per picture, in order. Pictures seen before cost nothing."""
        known = {p.digest: self._cache.get(p.digest, encoder.card.digest) for p in pictures}
        missing = list({p.digest: p for p in pictures if known[p.digest] is None}.values())
        hits, misses = len(known) - len(missing), len(missing)
        self._metrics.looked_up(hits=hits, misses=misses)
        traces.current().set(cache_hits=hits, cache_misses=misses)
        if not missing:
            tally.cached(encoder.card)
        pngs = [p.png or await self._png(p.upload) for p in missing]
        for start, stop in _batches([len(png) for png in pngs], self._max_batch_bytes):
            encoded = await stages.encode(encoder, pngs[start:stop])
            for picture, embeddings in zip(missing[start:stop], encoded, strict=True):
                self._cache.put(picture.digest, encoder.card.digest, embeddings)
                known[picture.digest] = embeddings
        return [found for p in pictures if (found := known[p.digest]) is not None]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _checked(self, upload: Upload, encoders: Sequence[str]) -> Picture:
        digest = hashlib.sha256(upload.data).hexdigest()
        if any(self._cache.holds(digest, encoder) for encoder in encoders):
            return Picture(upload, digest, b"")
        return Picture(upload, digest, normalise(upload.data, self._max_pixels, upload.field))

    async def _png(self, upload: Upload) -> bytes:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, normalise, upload.data, self._max_pixels, upload.field)


def _batches(sizes: Sequence[int], max_bytes: int) -> Iterator[tuple[int, int]]:
    """Ranges of consecutive entries that stay within `max_bytes` together."""
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if index > start and total + size > max_bytes:
            yield start, index
            start, total = index, 0
        total += size
    if sizes:
        yield start, len(sizes)
