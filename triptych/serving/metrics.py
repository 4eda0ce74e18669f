"""Prometheus metrics of one process, named `triptych_<service>_<noun>_<unit>`; durations in milliseconds.

Each `Metrics` has a registry of its own: nothing is global, two servers in one process do not collide. What is observed
inside a trace names it as its bucket's exemplar (in the OpenMetrics format, which Prometheus asks for).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from triptych import traces
from triptych.card import Card

BUCKETS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000)


@dataclass(frozen=True)
class Described:
    """A metric by its name without prefix, as it is scraped (a histogram without _bucket, _sum, _count)."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...]


class Metrics:
    """The calls of every gRPC server, and a place for a service to add its own."""

    def __init__(self, service: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._prefix = f"triptych_{service}_"
        self.described: list[Described] = []
        self.calls = self.counter("calls", "finished calls", ["method", "code"])
        self.call_ms = self.histogram_ms("call", "duration of calls", ["method"])

    def observe_call(self, method: str, code: str, duration_ms: float) -> None:
        """One finished call."""
        self.calls.labels(method, code).inc()
        self.call_ms.labels(method).observe(duration_ms, traces.exemplar())

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """`triptych_<service>_<name>_total`."""
        self._describe(f"{name}_total", "counter", text, labels)
        return Counter(f"{self._prefix}{name}", text, labels, registry=self.registry)

    def histogram_ms(self, name: str, text: str, labels: Sequence[str] = ()) -> Histogram:
        """`triptych_<service>_<name>_ms`."""
        self._describe(f"{name}_ms", "histogram", text, labels)
        return Histogram(f"{self._prefix}{name}_ms", text, labels, registry=self.registry, buckets=BUCKETS_MS)

    def histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        """`triptych_<service>_<name>`, of something counted."""
        self._describe(name, "histogram", text, ())
        return Histogram(f"{self._prefix}{name}", text, registry=self.registry, buckets=tuple(buckets))

    def gauge(self, name: str, text: str, value: Callable[[], float] | None = None) -> Gauge:
        """`triptych_<service>_<name>`; read from `value` at each scrape where given."""
        self._describe(name, "gauge", text, ())
        gauge = Gauge(f"{self._prefix}{name}", text, registry=self.registry)
        if value is not None:
            gauge.set_function(value)
        return gauge

    def gauges(self, name: str, text: str, labels: Sequence[str]) -> Gauge:
        """`triptych_<service>_<name>` with labels, each child of which is set or given a function."""
        self._describe(name, "gauge", text, labels)
        return Gauge(f"{self._prefix}{name}", text, labels, registry=self.registry)

    def show(self, card: Card, generation: str) -> None:
        """Which component this process serves, as a gauge that is always 1."""
        labels = ("name", "version", "generation")
        gauge = self.gauges("component_info", "1; the component served", labels)
        gauge.labels(card.name, card.version, generation).set(1)

    def _describe(self, name: str, kind: str, text: str, labels: Sequence[str]) -> None:
        self.described.append(Described(name, kind, text, tuple(labels)))

    def listen(self, host: str, port: int) -> int:
        """Serves /metrics on a thread; returns the port. Raises OSError when it is taken."""
        server, _ = start_http_server(port, host, registry=self.registry)
        return int(server.server_port)
