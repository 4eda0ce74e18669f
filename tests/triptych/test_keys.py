import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from triptych.cli import app
from triptych.errors import InvalidArgument
from triptych.keys import find, new_key, read_keys, write_keys


def run(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["keys", *(str(word) for word in words)])


def test_add_prints_the_key_once_and_keeps_a_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    done = run("add", "alice", "--file", file, "--per-day", "100", "--per-minute", "5")
    key = done.stdout.strip()
    assert done.exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    keys = read_keys(file)
    found = find(keys, key)
    assert found is not None
    assert (found.name, found.per_day, found.per_minute) == ("alice", 100, 5)
    assert key.rpartition("_")[2] not in file.read_text()
    assert run("add", "alice", "--file", file).exit_code == 2
    assert key not in run("list", "--file", file).stdout
    assert run("list", "--file", file).stdout == "alice: 100 a day, 5 a minute\n"
    assert run("revoke", "alice", "--file", file).exit_code == 0
    assert run("revoke", "alice", "--file", file).exit_code == 2
    assert find(read_keys(file), key) is None


def test_same_secret_is_another_hash() -> None:
    (_, one), (_, two) = new_key("a"), new_key("a")
    assert one.salt != two.salt
    assert one.hash != two.hash


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65, "line\nbreak", "-x"])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(InvalidArgument, match="name is"):
        new_key(name)


@pytest.mark.parametrize(
    "change",
    [
        {"per_day": -1},
        {"per_day": True},
        {"per_minute": "9"},
        {"name": 7},
        {"disabled": "no"},
        {"salt": None},
        {"admin": True},
    ],
)
def test_a_malformed_entry_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "keys.json"
    stored = new_key("alice")[1]
    write_keys(file, {stored.id: stored})
    values = json.loads(file.read_text())
    values["keys"][0] |= change
    file.write_text(json.dumps(values))
    with pytest.raises(InvalidArgument, match=r"keys\[0\]"):
        read_keys(file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": {}}', "\x00", "[" * 100_000])
def test_what_is_no_key_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(InvalidArgument, match=r"keys\.json"):
        read_keys(file)


def test_two_keys_of_one_id(tmp_path: Path) -> None:
    stored = new_key("alice")[1]
    write_keys(tmp_path / "k", {"a": stored, "b": stored})
    with pytest.raises(InvalidArgument, match="id of another"):
        read_keys(tmp_path / "k")
