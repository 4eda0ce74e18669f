"""Pictures get questions and answers from an endpoint: asked once each, whatever is asked at the same time."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.generated import GeneratedSource
from tests.services.trainer.data.endpoint import Endpoint
from tests.services.trainer.data.published import save
from triptych.errors import InvalidArgument
from triptych.prompts import Message, Picture

ANSWER = json.dumps([{"question": "What is it?", "answer": "A disc."}, {"question": "Where?", "answer": "Left."}])


def source(tmp_path: Path, base_url: str, **endpoint: Any) -> GeneratedSource:
    settings = {
        "name": "gen",
        "group": "g",
        "path": tmp_path / "pictures",
        "cache": tmp_path / "cache",
        "endpoint": {"base_url": base_url, "model": "tiny-vision", "requests_per_minute": 60_000, **endpoint},
    }
    return GeneratedSource(GeneratedSource.Config.model_validate(settings), 0)


def make(found: GeneratedSource) -> list[Record]:
    return [found.record(entry, i) for i, entry in enumerate(found.entries())]


def test_a_conversation_for_each_picture(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/x.png"):
        save(tmp_path / "pictures" / name, len(name))
    (tmp_path / "pictures/notes.txt").write_text("no picture")
    with Endpoint([ANSWER]) as server:
        found = source(tmp_path, server.base_url)
        found.check()
        records = make(found)
        assert len(server.requests) == 2
        assert make(found) == records
        assert len(server.requests) == 2
    assert [r.id for r in records] == ["a/x.png", "b.jpg"]
    assert records[0].pictures == ("a/x.png",)
    assert records[0].messages == (
        Message("user", (Picture(0), "What is it?")),
        Message("assistant", ("A disc.",)),
        Message("user", ("Where?",)),
        Message("assistant", ("Left.",)),
    )
    asked = server.requests[0].body["messages"][0]["content"]
    assert "Write 3 questions" in asked[0]["text"]
    assert asked[1]["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("I cannot help with that.", "malformed"),
        ('{"question": "a"}', "malformed"),
        ('[{"question": "a", "answer": 3}]', "malformed"),
        ('[{"question": "a", "answer": " "}]', "empty text"),
        ("[]", "no conversation"),
        ("[" * 100_000, "malformed"),
    ],
)
def test_answers_that_are_no_conversation(tmp_path: Path, answer: str, reason: str) -> None:
    save(tmp_path / "pictures/a.jpg", 1)
    with Endpoint([answer]) as server, pytest.raises(BadRecord) as caught:
        source(tmp_path, server.base_url).record("a.jpg", 0)
    assert caught.value.reason == reason


def test_a_fence_around_the_list_is_no_harm(tmp_path: Path) -> None:
    save(tmp_path / "pictures/a.jpg", 1)
    with Endpoint([f"```json\n{ANSWER}\n```"]) as server:
        (record,) = make(source(tmp_path, server.base_url))
    assert len(record.messages) == 4


def test_refusals_and_broken_pictures_are_bad_records(tmp_path: Path) -> None:
    save(tmp_path / "pictures/a.jpg", 1)
    (tmp_path / "pictures/b.jpg").write_bytes(b"\xff\xd8 no picture")
    with Endpoint([(400, "content policy")]) as server:
        found = source(tmp_path, server.base_url)
        for name, reason in (("a.jpg", "generation refused"), ("b.jpg", "picture unreadable")):
            with pytest.raises(BadRecord) as caught:
                found.record(name, 0)
            assert caught.value.reason == reason


def test_a_key_that_is_not_set_is_said_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "pictures/a.jpg", 1)
    monkeypatch.delenv("TINY_KEY", raising=False)
    with pytest.raises(InvalidArgument, match="TINY_KEY"):
        source(tmp_path, "http://127.0.0.1:9", api_key_env="TINY_KEY").check()
