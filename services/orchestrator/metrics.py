"""What the orchestrator counts, beside the calls that every server counts."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from services.orchestrator.admission import Admission
from services.orchestrator.cache import EmbeddingCache
from triptych.errors import TriptychError
from triptych.serving.metrics import Metrics


class OrchestratorMetrics:
    """Named `triptych_orchestrator_...`."""

    def __init__(self, metrics: Metrics, admission: Admission, cache: EmbeddingCache) -> None:
        self._requests = metrics.counter("requests", "finished requests", ["task", "status"])
        self._waited_ms = metrics.histogram_ms("queued", "time a request waited for admission")
        self._queued_ms = metrics.histogram_ms("stage_queued", "time a stage let a request wait", ["stage"])
        self._running_ms = metrics.histogram_ms("stage_running", "time a stage worked on a request", ["stage"])
        self._hits = metrics.counter("embedding_cache_hits", "pictures whose embeddings were at hand")
        self._misses = metrics.counter("embedding_cache_misses", "pictures that had to be encoded")
        metrics.gauge("embedding_cache_bytes", "embeddings at hand", lambda: cache.num_bytes)
        metrics.gauge("requests_running", "requests admitted", lambda: admission.num_running)
        metrics.gauge("requests_waiting", "requests waiting for admission", lambda: admission.num_waiting)

    @contextmanager
    def request(self, task: str) -> Iterator[None]:
        """Counts the request under the status it ends with."""
        status = "INTERNAL"
        try:
            yield
            status = "OK"
        except TriptychError as error:
            status = error.code
            raise
        except (asyncio.CancelledError, GeneratorExit):
            status = "CANCELLED"
            raise
        finally:
            self._requests.labels(task, status).inc()

    def admitted(self, waited_ms: float) -> None:
        self._waited_ms.observe(waited_ms)

    def stage(self, stage: str, queued_ms: float, running_ms: float) -> None:
        self._queued_ms.labels(stage).observe(queued_ms)
        self._running_ms.labels(stage).observe(running_ms)

    def looked_up(self, hits: int, misses: int) -> None:
        self._hits.inc(hits)
        self._misses.inc(misses)
