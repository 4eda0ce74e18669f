"""A conversation's pictures to embeddings: checked on a thread, then found in the cache, or normalised and encoded."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from services.orchestrator.cache import EmbeddingCache, Embeddings
from services.orchestrator.images import check, normalise
from services.orchestrator.metrics import OrchestratorMetrics
from services.orchestrator.request import Upload
from services.orchestrator.room import Room
from services.orchestrator.routing import Candidate
from services.orchestrator.stages import Stages
from services.orchestrator.tally import Tally
from triptych import traces

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """A checked upload. `digest` is the sha256 of its bytes; `num_bytes` what it takes decoded, 0 where its embeddings
    were at hand."""

    upload: Upload
    digest: str
    num_bytes: int


class Embedder:
    """Shared by all requests; decodes at most `num_threads` pictures at a time. Nobody keeps a decoded picture: it is
    made for one Encode call, and again for another one."""

    def __init__(
        self,
        cache: EmbeddingCache,
        metrics: OrchestratorMetrics,
        *,
        max_pixels: int,
        max_batch_bytes: int,
        max_decoded_bytes: int,
        num_threads: int,
    ) -> None:
        """`max_batch_bytes` bounds the decoded pictures of one Encode call, `max_decoded_bytes` those of all calls at a
        time; a larger picture goes alone."""
        self._cache = cache
        self._metrics = metrics
        self._max_pixels = max_pixels
        self._max_batch_bytes = max_batch_bytes
        self._room = Room(max_decoded_bytes)
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="images")

    async def check(self, uploads: Sequence[Upload], encoders: Sequence[Candidate]) -> list[Picture]:
        """Raises InvalidArgument for the first upload that is no picture. One whose embeddings are at hand for any of
        `encoders` was checked when they were made; one that comes several times is checked once.
        """
        pictures: dict[str, Picture] = {}
        digests = [await self._on_thread(_digest, upload) for upload in uploads]
        for upload, digest in zip(uploads, digests, strict=True):
            if digest not in pictures:
                is_known = any(self._cache.holds(digest, encoder.card.digest) for encoder in encoders)
                num_bytes = 0 if is_known else await self._on_thread(self._num_bytes, upload)
                pictures[digest] = Picture(upload, digest, num_bytes)
        return [pictures[digest] for digest in digests]

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
        sizes = [p.num_bytes or await self._on_thread(self._num_bytes, p.upload) for p in missing]
        for start, stop in _batches(sizes, self._max_batch_bytes):
            async with self._room.taken(sum(sizes[start:stop])):
                encoded = await self._encoded([p.upload for p in missing[start:stop]], encoder, stages)
            for picture, embeddings in zip(missing[start:stop], encoded, strict=True):
                self._cache.put(picture.digest, encoder.card.digest, embeddings)
                known[picture.digest] = embeddings
        return [found for p in pictures if (found := known[p.digest]) is not None]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _encoded(self, uploads: Sequence[Upload], encoder: Candidate, stages: Stages) -> list[Embeddings]:
        pngs = [await self._on_thread(self._png, upload) for upload in uploads]
        return await stages.encode(encoder, pngs)

    async def _on_thread(self, fn: Callable[[Upload], T], upload: Upload) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, fn, upload)

    def _num_bytes(self, upload: Upload) -> int:
        return check(upload.data, self._max_pixels, upload.field)

    def _png(self, upload: Upload) -> bytes:
        return normalise(upload.data, self._max_pixels, upload.field)


def _digest(upload: Upload) -> str:
    return hashlib.sha256(upload.data).hexdigest()


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
