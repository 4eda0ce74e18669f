"""The writer against a real server on loopback: its requests, its cache, its rate, its retries, its errors."""

import json
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.trainer.data.generate import Endpoint as Config
from services.trainer.data.generate import RateLimit, Refused, Writer
from tests.services.trainer.data.endpoint import Endpoint
from triptych.errors import FailedPrecondition, InvalidArgument, Unavailable


def writer(server: Endpoint, cache: Path, **values: Any) -> Writer:
    settings = {"model": "tiny", "requests_per_minute": 60_000, "backoff_s": 0.01, **values}
    return Writer(Config.model_validate({"base_url": server.base_url, **settings}), cache)


def test_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_KEY", "sesame")
    with Endpoint(["a lamp"]) as server:
        made = writer(server, tmp_path, api_key_env="TINY_KEY", temperature=0.5, max_tokens=7)
        assert made.ask("What is this?", b"\xff\xd8\xff") == "a lamp"
    (asked,) = server.requests
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["Authorization"] == "Bearer sesame"
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/"}},
    ]
    assert asked.body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": content}],
        "temperature": 0.5,
        "max_tokens": 7,
    }


def test_without_picture_and_key(tmp_path: Path) -> None:
    with Endpoint(["yes"]) as server:
        writer(server, tmp_path).ask("Is it?")
    assert server.requests[0].body["messages"] == [{"role": "user", "content": "Is it?"}]
    assert "Authorization" not in server.requests[0].headers


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    with Endpoint(["one", "two", "three", "four"]) as server:
        assert [writer(server, tmp_path).ask("a") for _ in range(3)] == ["one"] * 3
        assert writer(server, tmp_path).ask("b") == "two"
        assert writer(server, tmp_path).ask("a", b"x") == "three"
        assert writer(server, tmp_path, temperature=1).ask("a") == "four"
        assert writer(server, tmp_path).ask("a") == "one"
        assert len(server.requests) == 4
    assert "sesame" not in "".join(path.read_text() for path in tmp_path.iterdir())


def test_passing_errors_are_tried_again(tmp_path: Path) -> None:
    with Endpoint([(429, "slow down"), (503, "busy"), "at last"]) as server:
        assert writer(server, tmp_path).ask("a") == "at last"
        assert len(server.requests) == 3


def test_retry_after_is_heeded(tmp_path: Path) -> None:
    with Endpoint([(429, "slow down", {"Retry-After": "1"}), "now"]) as server:
        assert writer(server, tmp_path).ask("a") == "now"
    first, second = server.requests
    assert second.at_s - first.at_s >= 1


@pytest.mark.parametrize("status", [429, 500])
def test_retries_end(tmp_path: Path, status: int) -> None:
    with Endpoint([(status, "no")]) as server, pytest.raises(Unavailable, match=str(status)):
        writer(server, tmp_path, max_retries=2).ask("a")
    assert len(server.requests) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_request_refused(tmp_path: Path, status: int) -> None:
    with Endpoint([(status, "against the policy"), "fine"]) as server:
        made = writer(server, tmp_path)
        with pytest.raises(Refused, match=f"{status} against the policy"):
            made.ask("a")
        assert made.ask("b") == "fine"


@pytest.mark.parametrize("status", [301, 401, 403, 404])
def test_all_requests_refused(tmp_path: Path, status: int) -> None:
    with Endpoint([(status, "who are you?")]) as server, pytest.raises(FailedPrecondition, match="who are you"):
        writer(server, tmp_path).ask("a")
    assert len(server.requests) == 1


@pytest.mark.parametrize("raw", [b"<html>", b"{}", b'{"choices": []}', b"[1]"])
def test_something_else_answers(tmp_path: Path, raw: bytes) -> None:
    with Endpoint(["x"], raw) as server, pytest.raises(FailedPrecondition, match="no chat completion"):
        writer(server, tmp_path).ask("a")


def test_an_answer_without_text_is_paid_for_once(tmp_path: Path) -> None:
    raw = json.dumps({"choices": [{"message": {"role": "assistant", "content": None}}]}).encode()
    with Endpoint(["x"], raw) as server:
        for _ in range(3):
            with pytest.raises(Refused, match="no text"):
                writer(server, tmp_path).ask("a")
    assert len(server.requests) == 1


def test_of_two_answers_the_first_counts(tmp_path: Path) -> None:
    """Two processes ask the same at the same time, and are told different things."""
    with Endpoint(["late", "early"]) as server:
        slow, quick = writer(server, tmp_path), writer(server, tmp_path)
        post = slow._post

        def overtaken(body: bytes) -> str | None:
            answer = post(body)
            assert quick.ask("a") == "early"
            return answer

        slow._post = overtaken  # type: ignore[method-assign]
        assert slow.ask("a") == "early"
    assert len(server.requests) == 2


def test_retries_wait_for_their_turn(tmp_path: Path) -> None:
    with Endpoint([(503, "busy"), (503, "busy"), "at last"]) as server:
        assert writer(server, tmp_path, requests_per_minute=300).ask("a") == "at last"
    times = [asked.at_s for asked in server.requests]
    assert min(later - earlier for earlier, later in pairwise(times)) >= 0.15  # 0.2 s apart when they leave


def test_nobody_there(tmp_path: Path) -> None:
    server = Endpoint(["x"])
    made = writer(server, tmp_path, max_retries=1)
    server._server.server_close()
    with pytest.raises(Unavailable, match="/v1/chat/completions"):
        made.ask("a")


def test_the_rate_holds_across_threads() -> None:
    limit, passed = RateLimit(600), list[float]()  # 0.1 s apart

    def go() -> None:
        limit.wait()
        passed.append(time.monotonic())

    threads = [threading.Thread(target=go) for _ in range(4)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(passed) - start >= 0.3


def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ({"base_url": "ftp://x"}, {"requests_per_minute": 0}, {"modle": "x"}):
        with pytest.raises(ValidationError):
            Config.model_validate({"base_url": "http://x", "model": "m", **wrong})
    monkeypatch.delenv("TINY_KEY", raising=False)
    with pytest.raises(InvalidArgument, match="TINY_KEY"):
        Config(base_url="http://x", model="m", api_key_env="TINY_KEY").key()
