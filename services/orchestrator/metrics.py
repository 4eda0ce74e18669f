"""What the orchestrator counts, beside the calls that every server counts."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from services.orchestrator.admission import Admission
from services.orchestrator.backends import STAGES, Backends
from services.orchestrator.cache import EmbeddingCache
from services.orchestrator.replica import HEALTHS, STANDINGS
from services.orchestrator.routing import Route
from triptych import traces
from triptych.errors import TriptychError
from triptych.serving.metrics import Metrics

MAX_LABELS: Final = 64  # chains and generations told apart; an upgrade a week for a year
OTHER: Final = "other"


class OrchestratorMetrics:
    """Named `triptych_orchestrator_...`. A generation is the start of a card's digest, and four
    letters for what else tells its builds apart."""

    def __init__(self, metrics: Metrics, admission: Admission, cache: EmbeddingCache, backends: Backends) -> None:
        self._requests = metrics.counter("requests", "finished requests", ["task", "status"])
        self._request_ms = metrics.histogram_ms("request", "duration of requests, from arrival to the end", ["task"])
        self._first_event_ms = metrics.histogram_ms("first_event", "time from arrival to the first event", ["task"])
        self._waited_ms = metrics.histogram_ms("queued", "time a request waited for admission")
        self._chains = metrics.counter("chain_requests", "requests by the chain chosen: encoder-llm-decoder", ["chain"])
        calls = "calls to a stage by the generation called and how it ended; a retry is one more"
        self._calls = metrics.counter("stage_calls", calls, ["stage", "generation", "status"])
        self._queued_ms = metrics.histogram_ms("stage_queued", "time a stage let a request wait", ["stage"])
        self._running_ms = metrics.histogram_ms("stage_running", "time a stage worked on a request", ["stage"])
        self._hits = metrics.counter("embedding_cache_hits", "pictures whose embeddings were at hand")
        self._misses = metrics.counter("embedding_cache_misses", "pictures that had to be encoded")
        metrics.gauge("embedding_cache_bytes", "embeddings at hand", lambda: cache.num_bytes)
        metrics.gauge("requests_running", "requests admitted", lambda: admission.num_running)
        metrics.gauge("requests_waiting", "requests waiting for admission", lambda: admission.num_waiting)
        metrics.gauge("requests_bytes", "messages of requests admitted and waiting", lambda: admission.num_bytes)
        replicas = metrics.gauges("replicas", "replicas by what they last answered", ["stage", "state"])
        for stage in STAGES:
            for health, state in HEALTHS.items():
                replicas.labels(stage, state).set_function(partial(_num_replicas, backends, stage, health))
        standings = metrics.gauges("standings", "replicas by how they stand among the others", ["stage", "standing"])
        for stage in STAGES:
            for word in STANDINGS:
                standings.labels(stage, word).set_function(partial(_num_standing, backends, stage, word))
        outliers = metrics.gauges("outliers", "replicas that serve but are left out for a while", ["stage"])
        for stage in STAGES:
            outliers.labels(stage).set_function(partial(backends.num_outliers, stage))
        metrics.gauge("retries_left", "retries that may be made at once", lambda: backends.budget.balance)
        self._chain_names, self._generations = Bounded(MAX_LABELS), Bounded(MAX_LABELS)

    @contextmanager
    def request(self, task: str) -> Iterator[Callable[[], None]]:
        """Counts the request under the status it ends with. What it gives is to be called at each event."""
        started = time.perf_counter()
        is_silent = True

        def answered() -> None:
            nonlocal is_silent
            if is_silent:
                is_silent = False
                self._first_event_ms.labels(task).observe(_ms_since(started), traces.exemplar())

        with _outcome(lambda status: self._requests.labels(task, status).inc()):
            try:
                yield answered
            finally:
                self._request_ms.labels(task).observe(_ms_since(started), traces.exemplar())

    @contextmanager
    def call(self, stage: str, generation: str) -> Iterator[None]:
        """A call to a replica of this generation."""
        label = self._generations.label(generation)
        with _outcome(lambda status: self._calls.labels(stage, label, status).inc()):
            yield

    def chosen(self, route: Route) -> None:
        chain = "-".join(
            member.generation if member else "none" for member in (route.encoder, route.llm, route.decoder)
        )
        self._chains.labels(self._chain_names.label(chain)).inc()

    def admitted(self, waited_ms: float) -> None:
        self._waited_ms.observe(waited_ms, traces.exemplar())

    def stage(self, stage: str, queued_ms: float, running_ms: float) -> None:
        self._queued_ms.labels(stage).observe(queued_ms, traces.exemplar())
        self._running_ms.labels(stage).observe(running_ms, traces.exemplar())

    def looked_up(self, hits: int, misses: int) -> None:
        self._hits.inc(hits)
        self._misses.inc(misses)


class Bounded:
    """Values of a label: the first `max_values` are told apart, the rest are "other" until the process starts anew."""

    def __init__(self, max_values: int) -> None:
        self._max_values = max_values
        self._known: set[str] = set()

    def label(self, value: str) -> str:
        if value not in self._known and len(self._known) >= self._max_values:
            return OTHER
        self._known.add(value)
        return value


@contextmanager
def _outcome(count: Callable[[str], None]) -> Iterator[None]:
    """Calls `count` with the name of the status that the block ends with."""
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
        count(status)


def _num_replicas(backends: Backends, stage: str, health: int) -> int:
    return sum(replica.health == health for replica in backends.replicas(stage))


def _num_standing(backends: Backends, stage: str, word: str) -> int:
    return sum(replica.standing.word == word for replica in backends.replicas(stage))


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
