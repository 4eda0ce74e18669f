"""ShareGPT: who speaks, what is dropped at the ends, what is not wanted."""

from pathlib import Path
from typing import Any

import pytest

from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.sharegpt import ShareGptSource
from tests.services.trainer.data.published import turn, write_sharegpt


def source(path: Path, **values: Any) -> ShareGptSource:
    settings = {"name": "s", "group": "g", "path": path, **values}
    return ShareGptSource(ShareGptSource.Config.model_validate(settings), 0)


def record(*turns: dict[str, str], **values: Any) -> Record:
    return source(Path("x.json"), **values).record({"id": "q", "conversations": list(turns)}, 0)


def test_a_published_file(tmp_path: Path) -> None:
    values = write_sharegpt(tmp_path, 2)
    made = source(Path(values["path"]))
    made.check()
    records = [made.record(entry, i) for i, entry in enumerate(made.entries())]
    assert [(r.id, r.task, len(r.messages), r.pictures) for r in records] == [
        ("Qk0_0", "understand", 4, ()),
        ("Qk1_0", "understand", 4, ()),
    ]


def test_other_names_of_the_two_sides() -> None:
    assert [m.role for m in record(turn("user", "a"), turn("chatgpt", "b")).messages] == ["user", "assistant"]


def test_ends_without_partner_are_dropped() -> None:
    made = record(turn("gpt", "x"), turn("human", "a <image>"), turn("gpt", "b"), turn("human", "c"))
    assert [m.contents for m in made.messages] == [("a <image>",), ("b",)]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "no conversation"),
        ([turn("human", "a")], "no conversation"),
        ([turn("human", "a"), turn("human", "b"), turn("gpt", "c")], "turns out of order"),
        ([turn("human", "a"), turn("system", "b")], "unknown speaker"),
        ([turn("human", "a"), turn("gpt", "")], "empty text"),
        ([turn("human", "a"), turn("gpt", "As a LANGUAGE model I")], "unwanted phrase"),
    ],
)
def test_bad_entries(turns: list[dict[str, str]], reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        record(*turns, unwanted=["a language model"])
    assert caught.value.reason == reason
