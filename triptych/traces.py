"""What one request did where: spans, tied across processes by W3C trace context in the call's metadata.

Off until `configure`; while off nothing here imports OpenTelemetry, makes an object or sends a header. Traces begin at
a client or at a server's edge (`started`, `received`); everywhere else a span is a child of the one under way, and
outside a trace there is none. `span` is not for generators that yield inside it: they take `current().child(...)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal, Self

if TYPE_CHECKING:
    from triptych.tracer import Tracer

OFF: Final = "off"
PATTERN: Final = r"^(off|console|otlps?://[^/\s:]+:[0-9]{1,5})$"

Value = str | int | float | bool
Headers = tuple[tuple[str, str], ...]
Kind = Literal["client", "server", "internal"]


class Span:
    """One that nobody sees, and the base of those that are seen (`triptych.tracer`). Leaving its block ends it."""

    is_traced = False
    trace_id = ""  # 32 and 16 hexadecimal digits, as in a W3C traceparent
    span_id = ""

    def child(self, name: str, kind: Kind = "internal", **attributes: Value) -> Span:
        """A span inside this one, started now; it is not yet `current`."""
        return self

    def past(self, name: str, duration_ms: float, **attributes: Value) -> None:
        """A child that took `duration_ms` and ends now."""

    def set(self, **attributes: Value) -> None:
        """Adds to what is known of it."""

    def end(self, error: BaseException | None = None) -> None:
        """Once; with what went wrong."""

    def headers(self) -> Headers:
        """Metadata for a call to another process that shall go on with this trace."""
        return ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.end(error)


NOTHING: Final = Span()
_current: ContextVar[Span] = ContextVar("span", default=NOTHING)


class _Process:
    tracer: Tracer | None = None


_process = _Process()


def configure(where: str, service: str, replica_id: str = "", ratio: float = 1.0) -> None:
    """Sends this process's spans to "console" (JSON lines on stderr) or "otlp://host:port" (otlps: over TLS); "off": to
    nobody. `ratio` of the traces that begin here are kept; those begun elsewhere are kept where they were kept there.

    Raises FailedPrecondition when the extra `traces` is not installed, InvalidArgument for any other `where`.
    """
    close()
    if where != OFF:
        from triptych.tracer import Tracer

        _process.tracer = Tracer(where, service, replica_id, ratio)


def close() -> None:
    """Sends what is still to be sent, and is off."""
    tracer, _process.tracer = _process.tracer, None
    if tracer is not None:
        tracer.close()


def current() -> Span:
    """The span under way."""
    return _current.get()


def span(name: str, **attributes: Value) -> AbstractContextManager[Span]:
    """A child of the current span, and current inside its block."""
    parent = _current.get()
    return _entered(parent.child(name, "internal", **attributes)) if parent.is_traced else NOTHING


@contextmanager
def within(span: Span) -> Iterator[None]:
    """`span` is current inside the block, and goes on after it."""
    token = _current.set(span)
    try:
        yield
    finally:
        _current.reset(token)


def started(name: str, **attributes: Value) -> Span:
    """A client's call: within the current span where there is one, otherwise it begins a trace."""
    parent = _current.get()
    if parent.is_traced:
        return parent.child(name, "client", **attributes)
    return _process.tracer.start(name, "client", {}, attributes) if _process.tracer else NOTHING


def received(
    name: str, metadata: Iterable[tuple[str, str | bytes]] | None, **attributes: Value
) -> AbstractContextManager[Span]:
    """A server's call: goes on with the caller's trace or begins one; current inside its block."""
    if _process.tracer is None:
        return NOTHING
    return _entered(_process.tracer.start(name, "server", _texts(metadata or ()), attributes))


def exemplar() -> dict[str, str] | None:
    """The current span as labels of a metric's exemplar."""
    span = _current.get()
    return {"trace_id": span.trace_id, "span_id": span.span_id} if span.is_traced else None


@contextmanager
def _entered(span: Span) -> Iterator[Span]:
    with span, within(span):
        yield span


def _texts(metadata: Iterable[tuple[str, Any]]) -> Mapping[str, str]:
    return {key: value for key, value in metadata if isinstance(value, str)}
