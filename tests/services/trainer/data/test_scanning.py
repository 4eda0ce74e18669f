"""Looking at records: one row for each, in order, good or bad, whatever the piece."""

import json
from pathlib import Path

import pytest

from services.trainer.data.folder import MixFolder
from services.trainer.data.reading import read_source
from services.trainer.data.records import Record
from services.trainer.data.scanning import Scanned, compared_text, scan_piece
from tests.services.trainer.data.published import save, turn, write, write_gvit
from triptych.prompts import Message, Picture


def entry(image: str, question: str = "what is it?") -> dict[str, object]:
    said = [turn("human", f"<image>\n{question}"), turn("gpt", "a lamp")]
    return {"id": image, "image": image, "conversations": said}


@pytest.fixture
def folder(tmp_path: Path) -> MixFolder:
    """Seven LLaVA entries in pieces of five; some of them bad."""
    mix = write_gvit(tmp_path, 2)
    images = tmp_path / "llava/images"
    save(images / "a.jpg", 1)
    save(tmp_path / "llava/secret.jpg", 2)
    names = ["a.jpg", "../secret.jpg", str(tmp_path / "llava/secret.jpg"), "none.jpg", "a.jpg", "a.jpg"]
    entries = [entry(name) for name in names] + [entry("a.jpg", "why? " * 400)]
    write(tmp_path / "llava/llava_v1_5_mix665k.json", entries)
    MixFolder.begin(mix, tmp_path / "out", tmp_path)
    read_source(tmp_path / "out", "llava")
    return MixFolder(tmp_path / "out")


def test_rows(folder: MixFolder) -> None:
    assert folder.num_pieces("llava") == 2
    rows = []
    for piece in range(2):
        scan_piece(folder.out, "llava", piece)
        rows += [json.loads(line) for line in folder.scan("llava", piece).read_text().splitlines()]
    reasons = [row["bad"]["reason"] if "bad" in row else None for row in rows]
    outside = "picture outside its folder"
    assert reasons == [None, outside, outside, "picture missing", None, None, "too long"]
    assert [row["bad"]["position"] for row in rows if "bad" in row] == [1, 2, 3, 6]
    found = [Scanned.from_dict(row) for row in rows if "bad" not in row]
    assert [f.position for f in found] == [0, 4, 5]
    assert len({f.sha256s for f in found}) == 1
    with folder.records("llava").open("rb") as file:
        for scanned in found:
            file.seek(scanned.offset)
            record = Record.from_dict(json.loads(file.read(scanned.num_bytes)))
            assert record.pictures == ("a.jpg",)


def test_done_is_done(folder: MixFolder) -> None:
    folder.scan("llava", 0).write_text("kept")
    scan_piece(str(folder.out), "llava", 0)
    assert folder.scan("llava", 0).read_text() == "kept"


def test_what_the_reader_added_is_not_compared() -> None:
    messages = (Message("user", ("Draw a red lamp",)), Message("assistant", (Picture(0), "there")))
    record = Record("r", "generate", messages, ("a.jpg",), added=("Draw",))
    assert compared_text(record).split() == ["a", "red", "lamp", "there"]
