"""Captions turned round: the text asks, the picture is drawn; prefixes are drawn by seed from a pool."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.trainer.data.records import BadRecord
from services.trainer.data.sources.captions import PREFIXES, CaptionsSource
from tests.services.trainer.data.published import turn, write, write_captions
from triptych.errors import InvalidArgument
from triptych.prompts import Message, Picture


def source(tmp_path: Path, seed: int = 0, **values: Any) -> CaptionsSource:
    path = tmp_path / "list.json"
    settings = {"name": "c", "group": "g", "path": path, "images": tmp_path, **values}
    return CaptionsSource(CaptionsSource.Config.model_validate(settings), seed)


def test_a_published_file(tmp_path: Path) -> None:
    values = write_captions(tmp_path, 3)
    made = source(tmp_path, **{k: v for k, v in values.items() if k != "type"})
    made.check()
    entries = list(made.entries())
    for position, entry in enumerate(entries):
        record = made.record(entry, position)
        (prefix,) = record.added
        assert prefix in PREFIXES
        asked = f"{prefix} {entry['conversations'][1]['value']}"
        assert record.messages == (Message("user", (asked,)), Message("assistant", (Picture(0),)))
        assert (record.task, record.pictures) == ("generate", (entry["image"],))


@pytest.mark.parametrize("key", ["caption", "blip_caption"])
def test_plain_lists(tmp_path: Path, key: str) -> None:
    record = source(tmp_path, prefixes=["Draw"]).record({"image": "a.jpg", key: " a red\n lamp "}, 0)
    assert record.messages[0].contents == ("Draw a red lamp",)


def test_an_id_that_is_no_text_in_utf_8(tmp_path: Path) -> None:
    assert source(tmp_path).record({"id": "half \ud83d", "image": "a.jpg", "caption": "x"}, 0).added[0] in PREFIXES


def test_prefixes_depend_on_seed_and_entry_alone(tmp_path: Path) -> None:
    entries = [{"id": str(i), "image": "a.jpg", "caption": "x"} for i in range(400)]

    def drawn(seed: int) -> list[str]:
        return [source(tmp_path, seed).record(entry, i).added[0] for i, entry in enumerate(entries)]

    first = drawn(1)
    assert first == drawn(1) != drawn(2)
    counts = Counter(first)
    assert set(counts) == set(PREFIXES)
    assert max(counts.values()) < 3 * 400 / len(PREFIXES)


def test_prefixes_of_ones_own(tmp_path: Path) -> None:
    write(tmp_path / "list.json", [{"image": "a.jpg", "caption": "x"}])
    pool = tmp_path / "pool.txt"
    pool.write_text("Sketch\n\n  Etch \n")
    made = source(tmp_path, prefix_file=pool)
    made.check()
    assert made.prefixes == ("Sketch", "Etch")
    pool.write_text("\n")
    with pytest.raises(InvalidArgument, match="no prefixes"):
        source(tmp_path, prefix_file=pool).check()
    with pytest.raises(InvalidArgument, match="does not exist"):
        source(tmp_path, prefix_file=tmp_path / "none.txt").check()
    pool.write_bytes(b"Draw \xff")
    with pytest.raises(InvalidArgument, match=r"prefix_file .*pool\.txt: 'utf-8' codec"):
        source(tmp_path, prefix_file=pool).check()
    with pytest.raises(ValidationError, match="prefixes"):
        source(tmp_path, prefixes=[])


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"image": "a.jpg", "caption": " "}, "empty text"),
        ({"image": "a.jpg"}, "malformed"),
        ({"image": "a.jpg", "caption": 3}, "malformed"),
        ({"caption": "x"}, "placeholders do not match pictures"),
        ({"image": "a.jpg", "conversations": [turn("human", "a"), turn("gpt", "b")] * 2}, "malformed"),
        ([], "malformed"),
    ],
)
def test_bad_entries(tmp_path: Path, entry: Any, reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        source(tmp_path).record(entry, 0)
    assert caught.value.reason == reason
