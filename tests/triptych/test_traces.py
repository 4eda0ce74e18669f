"""Spans: none while off, lines on the console, and OTLP to something that takes it."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.repo.test_imports import ROOT, present_after
from tests.triptych.collector import collecting
from triptych import traces
from triptych.errors import InvalidArgument


@pytest.fixture(autouse=True)
def _off_afterwards() -> Iterator[None]:
    yield
    traces.close()


@pytest.mark.parametrize("module", ["triptych.client", "triptych.serving.server", "services.orchestrator.__main__"])
def test_off_imports_nothing(module: str) -> None:
    assert present_after(module, ("opentelemetry", "triptych.tracer")) == ""


def test_off_makes_nothing_and_sends_nothing() -> None:
    traces.configure("off", "llm")
    assert traces.started("respond") is traces.NOTHING
    assert traces.span("queue") is traces.NOTHING
    metadata = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
    with traces.received("Generate", metadata) as span:
        assert span.child("prefill") is traces.NOTHING
        assert traces.current().headers() == ()
        assert traces.exemplar() is None


def test_outside_a_trace_there_is_no_span() -> None:
    traces.configure("console", "llm")
    assert traces.span("step") is traces.NOTHING


def test_console(capsys: pytest.CaptureFixture[str]) -> None:
    traces.configure("console", "llm", "r1")
    metadata = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("x-bin", b"\0")]
    with traces.received("Generate", metadata, request_id="q") as span:
        span.past("queue", 20)
        with traces.span("prefill", num_steps=1) as inner:
            assert traces.exemplar() == {"trace_id": span.trace_id, "span_id": inner.span_id}
        with pytest.raises(ValueError, match="bad"), traces.span("decode"):
            raise ValueError("bad")
    queue, prefill, decode, generate = map(json.loads, capsys.readouterr().err.splitlines())
    assert {s["trace_id"] for s in (queue, prefill, decode, generate)} == {"0af7651916cd43dd8448eb211c80319c"}
    assert generate["parent_id"] == "b7ad6b7169203331"
    assert {s["parent_id"] for s in (queue, prefill, decode)} == {generate["span_id"]}
    assert [generate[key] for key in ("span", "service", "request_id")] == ["Generate", "llm", "q"]
    assert queue["duration_ms"] == pytest.approx(20, abs=0.01)
    assert prefill["num_steps"] == 1
    assert decode["error"] == "ValueError: bad"


def test_what_the_caller_does_not_keep_is_not_kept_here(capsys: pytest.CaptureFixture[str]) -> None:
    traces.configure("console", "llm")
    metadata = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")]
    with traces.received("Generate", metadata):
        ((key, value),) = traces.current().headers()
    assert (key, value[:35], value[-3:]) == ("traceparent", "00-0af7651916cd43dd8448eb211c80319c", "-00")
    assert capsys.readouterr().err == ""


def test_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    traces.configure("console", "llm", ratio=0)
    with traces.received("Generate", None) as span:
        assert int(span.headers()[0][1][-2:], 16) & 1 == 0, "the flag that says: kept"
    assert capsys.readouterr().err == ""


def test_otlp() -> None:
    with collecting() as collector:
        traces.configure(f"otlp://{collector.address}", "decoder", "r1")
        with traces.started("respond", address="here"), traces.span("never"):
            pass  # `started` is not current: what it calls is elsewhere
        with traces.received("Decode", None):
            with traces.span("denoise", num_steps=4):
                pass
        traces.close()
    assert {span.service for span in collector.spans} == {"triptych-decoder"}
    assert collector.named("never") == []
    assert collector.one("denoise").parent_id == collector.one("Decode").span_id
    assert collector.one("denoise").attributes == {"num_steps": 4}


@pytest.mark.parametrize("where", ["jaeger", "otlp://", "http://host:1"])
def test_anything_else_is_refused(where: str) -> None:
    with pytest.raises(InvalidArgument, match="must be off, console, otlp://host:port"):
        traces.configure(where, "llm")


def test_without_the_extra_it_says_what_to_install() -> None:
    absent = "import sys; sys.modules['opentelemetry.sdk'] = None"
    code = f"{absent}; from triptych import traces; traces.configure('console', 'x')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "pip install 'triptych[traces]'" in done.stderr.splitlines()[-1]
