"""Picture pairs by folder: from `seeds.json` as published, or from the folders themselves."""

from pathlib import Path
from typing import Any

import pytest

from services.trainer.data.records import BadRecord
from services.trainer.data.sources.instructpix2pix import InstructPix2PixSource
from tests.services.trainer.data.published import write, write_instructpix2pix
from triptych.errors import InvalidArgument
from triptych.prompts import Picture


def source(path: Path, **values: Any) -> InstructPix2PixSource:
    settings = {"name": "e", "group": "g", "path": path, **values}
    return InstructPix2PixSource(InstructPix2PixSource.Config.model_validate(settings), 0)


@pytest.mark.parametrize("seeds_json", [True, False])
@pytest.mark.parametrize("max_pairs", [1, 2, 9])
def test_a_published_folder(tmp_path: Path, seeds_json: bool, max_pairs: int) -> None:
    write_instructpix2pix(tmp_path, 3, seeds_json)
    made = source(tmp_path / "ip2p", max_pairs=max_pairs)
    made.check()
    records = [made.record(entry, i) for i, entry in enumerate(made.entries())]
    assert len(records) == 3 * min(2, max_pairs)
    assert records[0].id == "shard-00/0000000/1000000"
    assert records[0].pictures == ("shard-00/0000000/1000000_0.jpg", "shard-00/0000000/1000000_1.jpg")
    for record in records:
        assert record.task == "edit"
        seen, instruction = record.messages[0].contents
        assert seen == Picture(0)
        assert str(instruction).startswith("make it ")
        assert record.messages[1].contents == (Picture(1),)
        assert all((made.pictures / name).is_file() for name in record.pictures)


def test_bad_prompts_are_bad_records(tmp_path: Path) -> None:
    made = source(tmp_path)
    reasons = []
    write(tmp_path / "b/prompt.json", {"input": "x"})
    (tmp_path / "c").mkdir()
    (tmp_path / "c/prompt.json").write_text("{")
    write(tmp_path / "d/prompt.json", {"edit": " "})
    (tmp_path / "f").mkdir()
    (tmp_path / "f/prompt.json").write_text(f'{{"edit": {"1" * 5000}}}')
    for folder in ("a", "b", "c", "d", "../e", "f", "g" * 300):
        with pytest.raises(BadRecord) as caught:
            made.record((folder, "1"), 0)
        reasons.append(caught.value.reason)
    outside = "picture outside its folder"
    assert reasons == ["malformed", "malformed", "malformed", "empty text", outside, "malformed", "malformed"]


def test_nothing_is_lost_without_a_word(tmp_path: Path) -> None:
    """Folders whose pictures are not there, or only the edited ones."""
    write(tmp_path / "a/prompt.json", {"edit": "make it blue"})
    write(tmp_path / "b/prompt.json", {"edit": "make it red"})
    (tmp_path / "b/7_1.jpg").write_bytes(b"")
    made = source(tmp_path)
    first, second = made.entries()
    with pytest.raises(BadRecord, match="picture missing: a has no pairs"):
        made.record(first, 0)
    assert made.record(second, 1).pictures == ("b/7_0.jpg", "b/7_1.jpg")


@pytest.mark.parametrize("item", [["a"], ["a", None], ["a", "1"], "a", None, [1, ["1"]]])
def test_items_of_the_list_that_are_none(tmp_path: Path, item: Any) -> None:
    write(tmp_path / "seeds.json", [item, ["b", []]])
    made = source(tmp_path)
    made.check()
    reasons = []
    for entry in made.entries():
        with pytest.raises(BadRecord) as caught:
            made.record(entry, 0)
        reasons.append(caught.value.reason)
    assert reasons == ["malformed", "picture missing"]


def test_an_empty_folder_and_a_list_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="is empty"):
        source(tmp_path).check()
    write(tmp_path / "seeds.json", {"a": ["1"]})
    with pytest.raises(InvalidArgument, match="is no JSON list"):
        source(tmp_path).check()
