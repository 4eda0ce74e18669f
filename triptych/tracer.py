"""Spans as OpenTelemetry makes and sends them. Only `triptych.traces.configure` imports this."""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from time import time_ns
from typing import Final

from triptych.errors import FailedPrecondition, InvalidArgument
from triptych.traces import Headers, Kind, Span, Value

try:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        ConsoleSpanExporter,
        SimpleSpanProcessor,
        SpanExporter,
    )
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id, set_span_in_context
    from opentelemetry.trace import Tracer as OtelTracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as missing:
    raise FailedPrecondition(f"{missing}: traces need more, pip install 'triptych[traces]'") from missing

W3C: Final = TraceContextTextMapPropagator()
KINDS: Final[dict[Kind, SpanKind]] = {
    "client": SpanKind.CLIENT,
    "server": SpanKind.SERVER,
    "internal": SpanKind.INTERNAL,
}


class Tracer:
    """Where one process's spans begin and where they go."""

    def __init__(self, where: str, service: str, replica_id: str, ratio: float) -> None:
        """As `triptych.traces.configure`."""
        about = {"service.name": f"triptych-{service}"}
        resource = Resource({**about, **({"service.instance.id": replica_id} if replica_id else {})})
        self._provider = TracerProvider(
            resource=resource, sampler=ParentBased(TraceIdRatioBased(ratio)), shutdown_on_exit=False
        )
        self._provider.add_span_processor(_processor(where))
        self._tracer = self._provider.get_tracer("triptych")

    def start(self, name: str, kind: Kind, metadata: Mapping[str, str], attributes: Mapping[str, Value]) -> Span:
        """Goes on with the trace that `metadata` names; without one, with what the program itself traces, if at all."""
        parent = W3C.extract(metadata) if metadata else None
        started = self._tracer.start_span(name, parent, KINDS[kind], attributes)
        return RecordedSpan(self._tracer, started)

    def close(self) -> None:
        self._provider.shutdown()


class RecordedSpan(Span):
    """Part of a trace. Where the trace is not kept, it only carries the trace's id on."""

    is_traced = True

    def __init__(self, tracer: OtelTracer, span: OtelSpan) -> None:
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span)
        self.trace_id = format_trace_id(span.get_span_context().trace_id)
        self.span_id = format_span_id(span.get_span_context().span_id)

    def child(self, name: str, kind: Kind = "internal", **attributes: Value) -> Span:
        return RecordedSpan(self._tracer, self._tracer.start_span(name, self._context, KINDS[kind], attributes))

    def past(self, name: str, duration_ms: float, **attributes: Value) -> None:
        ended = time_ns()
        began = ended - int(duration_ms * 1e6)
        self._tracer.start_span(name, self._context, attributes=attributes, start_time=began).end(ended)

    def set(self, **attributes: Value) -> None:
        self._span.set_attributes(attributes)

    def end(self, error: BaseException | None = None) -> None:
        if error is not None:
            self._span.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}")
        self._span.end()

    def headers(self) -> Headers:
        carrier: dict[str, str] = {}
        W3C.inject(carrier, self._context)
        return tuple(carrier.items())


def _processor(where: str) -> SpanProcessor:
    scheme, _, address = where.partition("://")
    if where == "console":
        return SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr, formatter=line))
    if scheme in ("otlp", "otlps") and address:
        return BatchSpanProcessor(_otlp(address, is_insecure=scheme == "otlp"))
    raise InvalidArgument(f"traces is {where!r}, must be off, console, otlp://host:port or otlps://host:port")


def _otlp(address: str, *, is_insecure: bool) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as missing:
        raise FailedPrecondition(f"{missing}: OTLP needs more, pip install 'triptych[traces]'") from missing
    return OTLPSpanExporter(endpoint=address, insecure=is_insecure)


def line(span: ReadableSpan) -> str:
    """A span as one line of JSON; its attributes are keys of their own."""
    assert span.start_time is not None
    assert span.end_time is not None
    began = datetime.fromtimestamp(span.start_time / 1e9, UTC)
    facts = {
        "span": span.name,
        "service": str(span.resource.attributes["service.name"]).removeprefix("triptych-"),
        "start": began.isoformat(timespec="microseconds"),
        "duration_ms": round((span.end_time - span.start_time) / 1e6, 3),
        "trace_id": format_trace_id(span.context.trace_id),
        "span_id": format_span_id(span.context.span_id),
        "parent_id": format_span_id(span.parent.span_id) if span.parent else "",
        **(span.attributes or {}),
    }
    if span.status.description:
        facts["error"] = span.status.description
    return json.dumps(facts) + "\n"
