"""LLaVA's JSON: turns, placeholders, text-only entries, and each way in which an entry may be wrong."""

from pathlib import Path
from typing import Any

import pytest

from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.llava import LlavaSource
from tests.services.trainer.data.published import turn, write, write_llava
from triptych.errors import InvalidArgument
from triptych.prompts import Message, Picture


def source(tmp_path: Path, entries: object = None) -> LlavaSource:
    path = tmp_path / "list.json" if entries is None else write(tmp_path / "list.json", entries)
    (tmp_path / "images").mkdir(exist_ok=True)
    values = {"name": "llava", "group": "g", "path": path, "images": tmp_path / "images"}
    return LlavaSource(LlavaSource.Config.model_validate(values), 0)


def record(tmp_path: Path, entry: Any) -> Record:
    return source(tmp_path).record(entry, 7)


def said(*values: str) -> list[dict[str, str]]:
    return [turn(("human", "gpt")[i % 2], value) for i, value in enumerate(values)]


def test_a_published_file(tmp_path: Path) -> None:
    values = write_llava(tmp_path, 5)
    made = LlavaSource(LlavaSource.Config.model_validate({**values, "name": "a", "group": "g"}), 0)
    made.check()
    records = [made.record(entry, position) for position, entry in enumerate(made.entries())]
    assert [r.id for r in records] == [f"{i:012d}" for i in range(5)]
    assert [len(r.pictures) for r in records] == [1, 1, 1, 0, 1]
    assert all(r.task == "understand" and len(r.messages) == 4 for r in records)
    assert all((made.pictures / name).is_file() for r in records for name in r.pictures)


@pytest.mark.parametrize("text", ["<image>\nwhat is it?", "<image> what is it?", "  <image>\n\nwhat is it? "])
def test_the_placeholder_becomes_the_picture(tmp_path: Path, text: str) -> None:
    made = record(tmp_path, {"id": 5, "image": "a.jpg", "conversations": said(text, "a lamp")})
    assert made == Record(
        "5",
        "understand",
        (Message("user", (Picture(0), "what is it?")), Message("assistant", ("a lamp",))),
        ("a.jpg",),
    )


def test_several_pictures_in_reading_order(tmp_path: Path) -> None:
    turns = said("is <image> like <image>", "no", "and <image>?", "yes")
    made = record(tmp_path, {"image": ["a.jpg", "b.jpg", "c.jpg"], "conversations": turns})
    assert made.messages[0].contents == ("is", Picture(0), "like", Picture(1))
    assert made.messages[2].contents == ("and", Picture(2), "?")
    assert (made.id, made.pictures) == ("7", ("a.jpg", "b.jpg", "c.jpg"))


def test_without_a_picture_the_placeholder_is_text(tmp_path: Path) -> None:
    made = record(tmp_path, {"id": "x", "conversations": said("what does <image> do in HTML?", "nothing")})
    assert made.messages[0].contents == ("what does <image> do in HTML?",)


def test_what_comes_before_the_first_human_turn_is_left_out(tmp_path: Path) -> None:
    turns = [turn("gpt", "hello"), *said("hi", "ho")]
    assert [m.contents for m in record(tmp_path, {"conversations": turns}).messages] == [("hi",), ("ho",)]


BAD: list[tuple[Any, str]] = [
    ("text", "malformed"),
    ({"id": 1}, "malformed"),
    ({"conversations": "hi"}, "malformed"),
    ({"conversations": [{"from": "human"}]}, "malformed"),
    ({"conversations": [turn("human", "a"), {"from": "gpt", "value": 3}]}, "malformed"),
    ({"conversations": said("a", "half \ud83d")}, "malformed"),
    ({"image": 3, "conversations": said("a", "b")}, "malformed"),
    ({"conversations": []}, "no conversation"),
    ({"conversations": [turn("gpt", "a")]}, "no conversation"),
    ({"conversations": [turn("human", "a"), turn("bing", "b")]}, "unknown speaker"),
    ({"conversations": said("a")}, "turns out of order"),
    ({"conversations": [turn("human", "a"), turn("human", "b")]}, "turns out of order"),
    ({"conversations": said("a", " \n")}, "empty text"),
    ({"image": "a.jpg", "conversations": said("a", "b")}, "placeholders do not match pictures"),
    ({"image": "a.jpg", "conversations": said("<image><image>a", "b")}, "placeholders do not match pictures"),
    ({"image": "a.jpg", "conversations": said("<image> a", "<image>")}, "placeholders do not match pictures"),
]


@pytest.mark.parametrize(("entry", "reason"), BAD)
def test_bad_entries_say_why(tmp_path: Path, entry: Any, reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        record(tmp_path, entry)
    assert caught.value.reason == reason


def test_missing_empty_and_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"source llava: .*list\.json does not exist"):
        source(tmp_path).check()
    with pytest.raises(InvalidArgument, match=r"source llava: .*list\.json is empty"):
        source(tmp_path, []).check()
    with pytest.raises(InvalidArgument, match=r"list\.json is no JSON list: it begins with"):
        source(tmp_path, {"a": 1}).check()
    made = source(tmp_path, [{"id": 1}])
    (tmp_path / "images").rmdir()
    with pytest.raises(InvalidArgument, match=r"source llava: .*images is no folder"):
        made.check()
