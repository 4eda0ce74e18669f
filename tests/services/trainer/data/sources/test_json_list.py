"""Lists read bit by bit give what the whole file says, wherever the chunks fall."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.trainer.data.sources import json_list
from services.trainer.data.sources.json_list import json_entries
from triptych.errors import InvalidArgument

VALUES: list[Any] = [{"a": [1, {"b": "]}, "}]}, "tëxt, [", 12345, -1.5e3, None, True, [], {}, "\U0001f600"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_any_chunk_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None) -> None:
    monkeypatch.setattr(json_list, "CHUNK_CHARS", chunk)
    path = tmp_path / "a.json"
    path.write_text("  " + json.dumps(VALUES, indent=indent) + "\n")
    assert list(json_entries(path)) == VALUES


def test_empty_list(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[ ]")
    assert list(json_entries(path)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON list"),
        ('{"a": 1}', "no JSON list"),
        ('[{"a": 1}, {"b"', "entry 1 is cut off"),
        ("[1, 2", "entry 1 is cut off"),
        ("[1, nonsense]", "entry 1 is cut off or no JSON"),
        ("[1] [2]", r"goes on after its list: '\[2\]'"),
        (f"[{'1' * 5000}]", "limit"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_half_a_file_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "half.json"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=rf"half\.json.*{message}"):
        list(json_entries(path))


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'["\xff"]')
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        list(json_entries(path))


def test_a_bad_line_is_one_bad_entry(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"b"\n{"c": 2}\n')
    assert list(json_entries(path)) == [{"a": 1}, '{"b"\n', {"c": 2}]


def test_a_line_with_what_no_number_and_no_list_can_be(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"a": {"1" * 5000}}}\n{"[" * 100_000}\n[1]\n')
    assert [type(entry) for entry in json_entries(path)] == [str, str, list]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_mark_of_utf8_at_the_beginning_is_no_harm(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("[1]\n", encoding="utf-8-sig")
    assert list(json_entries(path)) in ([1], [[1]])


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="directory"):
        list(json_entries(tmp_path))
