"""Reading a source: records and bad ones in the order of the entries, once."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.trainer.data import reading
from services.trainer.data.folder import MixFolder
from services.trainer.data.mix import Mix
from services.trainer.data.reading import read_source
from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.base import Source
from tests.services.trainer.data.endpoint import Endpoint
from tests.services.trainer.data.published import save, turn, write, write_gvit
from triptych.errors import InvalidArgument, Unavailable

GOOD = [turn("human", "a"), turn("gpt", "b")]


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_good_and_bad_in_order(tmp_path: Path) -> None:
    mix = write_gvit(tmp_path, 2)
    entries = [{"id": f"c{i}", "conversations": GOOD if i % 3 else []} for i in range(12)]
    write(mix.source("sharegpt").config.path, entries)
    folder = MixFolder.begin(mix, tmp_path / "out", tmp_path)
    read_source(folder.out, "sharegpt")
    assert [row["position"] for row in rows(folder.records("sharegpt"))] == [1, 2, 4, 5, 7, 8, 10, 11]
    assert [(r["position"], r["reason"]) for r in rows(folder.bad("sharegpt"))] == [
        (i, "no conversation") for i in (0, 3, 6, 9)
    ]
    mark = json.loads(folder.read_mark("sharegpt").read_text())
    assert (mark["num_read"], mark["num_records"], mark["bad"]) == (12, 8, {"no conversation": 4})
    assert folder.num_pieces("sharegpt") == 2
    folder.records("sharegpt").write_text("kept")
    read_source(folder.out, "sharegpt")
    assert folder.records("sharegpt").read_text() == "kept"


def test_two_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins and ends while the first is under way, and reads other entries: its own alone are seen."""
    mix = write_gvit(tmp_path, 2)
    path = mix.source("sharegpt").config.path
    folder = MixFolder.begin(mix, tmp_path / "out", tmp_path)
    slow = reading._made

    def overtaken(source: Source) -> Iterator[Record | BadRecord]:
        monkeypatch.setattr(reading, "_made", slow)
        yield from slow(source)
        write(path, [{"id": "other", "conversations": GOOD}, {"id": "bad", "conversations": []}])
        read_source(folder.out, "sharegpt")

    monkeypatch.setattr(reading, "_made", overtaken)
    read_source(folder.out, "sharegpt")
    assert [row["id"] for row in rows(folder.records("sharegpt"))] == ["other"]
    assert [row["position"] for row in rows(folder.bad("sharegpt"))] == [1]
    assert len(list((folder.work / "sharegpt").iterdir())) == 3


def test_half_a_file_ends_the_step_and_leaves_nothing(tmp_path: Path) -> None:
    mix = write_gvit(tmp_path, 2)
    path = mix.source("sharegpt").config.path
    folder = MixFolder.begin(mix, tmp_path / "out", tmp_path)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(InvalidArgument, match="cut off"):
        read_source(folder.out, "sharegpt")
    assert list((folder.work / "sharegpt").iterdir()) == []


def generated(tmp_path: Path, base_url: str) -> MixFolder:
    for index in range(12):
        save(tmp_path / f"pictures/{index:02d}.jpg", index)
    endpoint = {"base_url": base_url, "model": "m", "requests_per_minute": 60_000, "max_concurrency": 4}
    endpoint |= {"max_retries": 0}
    source = {"type": "generated", "name": "gen", "group": "g", "path": "pictures", "cache": "cache"}
    mix = Mix.model_validate({"name": "m", "shares": {"g": 100}, "sources": [{**source, "endpoint": endpoint}]})
    return MixFolder.begin(mix, tmp_path / "out", tmp_path)


def test_in_order_however_many_are_asked_at_once(tmp_path: Path) -> None:
    answer = json.dumps([{"question": "q", "answer": "a"}])
    with Endpoint([answer]) as server:
        folder = generated(tmp_path, server.base_url)
        read_source(folder.out, "gen")
    assert len(server.requests) == 12
    assert [row["id"] for row in rows(folder.records("gen"))] == [f"{i:02d}.jpg" for i in range(12)]


def test_an_endpoint_that_fails_half_way_is_asked_only_for_the_rest(tmp_path: Path) -> None:
    answer = json.dumps([{"question": "q", "answer": "a"}])
    with Endpoint([answer] * 6 + [(500, "down")]) as server:
        folder = generated(tmp_path, server.base_url)
        with pytest.raises(Unavailable, match="500"):
            read_source(folder.out, "gen")
        assert not folder.read_mark("gen").exists()
        kept = len(list((tmp_path / "cache").iterdir()))
        assert kept == 6
        asked = len(server.requests)
        server.replies = [answer]
        read_source(folder.out, "gen")
        assert len(server.requests) - asked == 12 - kept
