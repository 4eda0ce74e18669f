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
