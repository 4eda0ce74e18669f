import json
import logging
from pathlib import Path

import pytest

from services.orchestrator.discovery.file import AddressFile, read_places
from services.orchestrator.discovery.place import Place
from triptych.errors import InvalidArgument


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "addresses.json").write_text(json.dumps({"llm": ["10.0.0.1:5"]}))
    return tmp_path / "addresses.json"


async def test_replicas_come_and_go(path: Path) -> None:
    file = AddressFile(path)
    assert list(await file.find()) == [Place("llm", "10.0.0.1:5", "10.0.0.1")]
    path.write_text(json.dumps({"llm": [], "decoder": ["a:1", {"address": "b:2", "share": 0.25}]}))
    assert list(await file.find()) == [Place("decoder", "a:1", "a"), Place("decoder", "b:2", "b", 0.25)]


async def test_what_was_good_last_holds(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = AddressFile(path)
    path.write_text("{")
    with caplog.at_level(logging.WARNING):
        assert len(await file.find()) == 1
        assert len(await file.find()) == 1
    assert len(caplog.records) == 1, "said once"
    path.unlink()
    assert len(await file.find()) == 1


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([], "keys encoder, llm, decoder"),
        ({"lm": []}, "keys encoder, llm, decoder"),
        ({"llm": "a:1"}, "llm must be a list"),
        ({"llm": ["a"]}, "'a' is not host:port"),
        ({"llm": [7]}, "must be an address"),
        ({"llm": [{"address": "a:1", "weight": 1}]}, "must be an address"),
        ({"llm": [{"address": "a:1", "share": 1.5}]}, "share is 1.5, must be 0 to 1"),
        ({"llm": [{"address": "a:1", "share": True}]}, "share is True"),
    ],
)
def test_malformed(path: Path, values: object, named: str) -> None:
    path.write_text(json.dumps(values))
    with pytest.raises(InvalidArgument, match=named):
        read_places(path)


def test_missing_at_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="No such file"):
        AddressFile(tmp_path / "none.json")
