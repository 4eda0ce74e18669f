"""An export comes into its place together with its line in the card, or neither does."""

import errno
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from triptych.card import Card, folder_digest, read_card, verify_digest, write_card
from triptych.errors import CheckpointError
from triptych.exports import Export, verify_export
from triptych.models.export_place import alone, aside, publish

NAME = "onnx-f32"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A component with one export, of graph "old"."""
    (tmp_path / "weights").write_bytes(b"weights")
    write_card(tmp_path, Card("encoder", "tiny", "1.0.0"))
    export(tmp_path, NAME, b"old")
    return tmp_path


def export(folder: Path, name: str, graph: bytes, of: str = "") -> None:
    with aside(folder, name) as own:
        (own / "encoder.onnx").write_bytes(graph)
        publish(folder, name, own, figures(own, of or read_card(folder).digest))


def figures(own: Path, of: str) -> Export:
    return Export(
        format="onnx",
        precision="f32",
        digest=folder_digest(own),
        of=of,
        images=24,
        cosine_min=0.9999,
        cosine_min_seen=1.0,
        parts={"encoder": 1.0},
        made_with="torch",
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_replaced(folder: Path) -> None:
    before = read_card(folder)
    export(folder, NAME, b"new")
    card = read_card(folder)
    assert (verify_export(folder, card, NAME) / "encoder.onnx").read_bytes() == b"new"
    assert card.digest == before.digest
    verify_digest(folder, card)
    assert sorted(contents(folder)) == ["card.json", "exports/onnx-f32/encoder.onnx", "weights"]


def test_the_card_is_read_as_late_as_possible(folder: Path) -> None:
    with aside(folder, "triton-f32") as own:
        (own / "model.onnx").write_bytes(b"other")
        export(folder, "onnx-int8", b"in the meantime")
        publish(folder, "triton-f32", own, figures(own, read_card(folder).digest))
    card = read_card(folder)
    assert sorted(card.exports) == [NAME, "onnx-int8", "triton-f32"]
    assert all(verify_export(folder, card, name).is_dir() for name in card.exports)


def test_one_at_a_time(folder: Path) -> None:
    entered = threading.Event()

    def other() -> None:
        with alone(folder):
            entered.set()

    thread = threading.Thread(target=other)
    with alone(folder):
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    thread.join()


@pytest.mark.parametrize("name", [NAME, "onnx-int8"])
def test_a_full_disk_leaves_everything_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = contents(folder)

    def disk_full(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text[:100].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(OSError, match="No space left"):
        export(folder, name, b"new")
    assert contents(folder) == before
    assert [path.name for path in (folder / "exports").iterdir()] == [NAME]


def test_a_component_replaced_meanwhile(folder: Path) -> None:
    of = read_card(folder).digest
    (folder / "weights").write_bytes(b"trained on")
    write_card(folder, replace(read_card(folder), exports={}))
    before = contents(folder)
    with pytest.raises(CheckpointError, match=r"was replaced while onnx-f32 was made: that is of sha256:\w+, the card"):
        export(folder, NAME, b"new", of)
    assert contents(folder) == before


def test_files_changed_meanwhile(folder: Path) -> None:
    (folder / "weights").write_bytes(b"weightz")
    before = contents(folder)
    with pytest.raises(CheckpointError, match="half-copied or changed"):
        export(folder, NAME, b"new")
    assert contents(folder) == before


@pytest.mark.parametrize("stage", ["aside", "moved away", "moved in"])
def test_after_a_kill(folder: Path, stage: str) -> None:
    """At any point: the component itself holds, and the next export of that name puts all in order."""
    exports = folder / "exports"
    if stage == "aside":
        (exports / f".{NAME}.partial").mkdir()
    else:
        (exports / NAME).rename(exports / f".{NAME}.old")
    if stage == "moved in":
        (exports / NAME).mkdir()
    verify_digest(folder, read_card(folder))
    export(folder, NAME, b"new")
    verify_export(folder, read_card(folder), NAME)
    assert [path.name for path in exports.iterdir()] == [NAME]
