"""Log lines, for machines and for people."""

import json
import logging
from collections.abc import Iterator

import pytest

from tests.triptych.serving.harness import TestConfig
from triptych import traces
from triptych.serving import request_id
from triptych.serving.logs import configure_logs

log = logging.getLogger("some.module")


@pytest.fixture(autouse=True)
def _root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    token = request_id.current.set("req1")
    yield
    request_id.current.reset(token)
    root.handlers[:], root.level = handlers, level


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(TestConfig(), "r1")
    log.info("call of %s", "me", extra={"status": "OK", "duration_ms": 1.5})
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "service": "llm",
        "replica": "r1",
        "request_id": "req1",
        "logger": "some.module",
        "message": "call of me",
        "status": "OK",
        "duration_ms": 1.5,
    }


def test_json_lines_name_the_trace(capsys: pytest.CaptureFixture[str]) -> None:
    traces.configure("otlp://127.0.0.1:9", "llm")
    traces_of_caller = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")]
    configure_logs(TestConfig())
    with traces.received("Generate", traces_of_caller) as span:
        log.info("call")
    traces.close()
    line = json.loads(capsys.readouterr().err)
    assert (line["trace_id"], line["span_id"]) == ("0af7651916cd43dd8448eb211c80319c", span.span_id)


def test_a_traceback_and_line_breaks_stay_on_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(TestConfig())
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("failed\nhere")
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert "ValueError: two\nlines" in json.loads(written)["traceback"]


def test_what_is_no_json_is_written_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(TestConfig())
    log.info("odd", extra={"value": {1}})
    assert json.loads(capsys.readouterr().err)["value"] == "{1}"


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(TestConfig(log_format="text"))
    log.warning("call", extra={"status": "OK"})
    assert capsys.readouterr().err.endswith(" warning llm [req1] call status=OK\n")


def test_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(TestConfig(log_level="warning"))
    log.info("quiet")
    log.warning("loud")
    assert json.loads(capsys.readouterr().err)["message"] == "loud"


def test_configuring_twice_writes_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(TestConfig())
    configure_logs(TestConfig())
    log.info("once")
    assert capsys.readouterr().err.count("once") == 1
