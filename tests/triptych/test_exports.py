"""An export is read only when the card names it, it belongs to this component, and its files are those that passed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from triptych.card import Card, folder_digest, read_card, verify_digest, write_card
from triptych.errors import CheckpointError
from triptych.exports import Export, read_export, triton_model, verify_export

NAME = "onnx-f32"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A component with one export."""
    (tmp_path / "weights").write_bytes(b"weights")
    card = write_card(tmp_path, Card("encoder", "tiny", "1.0.0"))
    own = tmp_path / "exports" / NAME
    own.mkdir(parents=True)
    (own / "encoder.onnx").write_bytes(b"graph")
    export = Export(
        format="onnx",
        precision="f32",
        digest=folder_digest(own),
        of=card.digest,
        images=24,
        cosine_min=0.9999,
        cosine_min_seen=1.0,
        parts={"encoder": 1.0},
        made_with="torch",
    )
    write_card(tmp_path, replace(card, exports={NAME: export.to_dict()}))
    return tmp_path


def changed(folder: Path, **values: Any) -> Card:
    card = read_card(folder)
    return replace(card, exports={NAME: card.exports[NAME] | values})


def test_round_trip(folder: Path) -> None:
    card = read_card(folder)
    assert verify_export(folder, card, NAME) == folder / "exports" / NAME
    assert read_export(card, NAME, ("onnx",)).to_dict() == card.exports[NAME]


def test_an_export_changes_nothing_of_what_the_component_is(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "exports" / "stray").write_bytes(b"")
    verify_digest(folder, read_card(folder))
    (tmp_path / "export").write_bytes(b"")
    with pytest.raises(CheckpointError, match="half-copied or changed"):
        verify_digest(folder, read_card(folder))


def test_changed_file(folder: Path) -> None:
    (folder / "exports" / NAME / "encoder.onnx").write_bytes(b"graqh")
    with pytest.raises(CheckpointError, match=r"encoder tiny 1\.0\.0: export 'onnx-f32' .* half-copied or changed"):
        verify_export(folder, read_card(folder), NAME)


def test_missing_folder(folder: Path) -> None:
    (folder / "exports" / NAME).rename(folder / "exports" / "away")
    with pytest.raises(CheckpointError, match="is not a folder"):
        verify_export(folder, read_card(folder), NAME)


def test_a_model_s_name_is_its_component_s_alone() -> None:
    assert triton_model(f"sha256:{'3f' * 32}") == "encoder_3f3f3f3f3f3f"
    assert triton_model(f"sha256:{'3e' * 32}") != triton_model(f"sha256:{'3f' * 32}")


def test_unknown_name(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="has no export 'onnx-f16', it has: onnx-f32"):
        read_export(read_card(folder), "onnx-f16")
    with pytest.raises(CheckpointError, match="it has: none"):
        read_export(Card("encoder", "tiny", "1.0.0"), NAME)


def test_another_state_of_the_component(folder: Path) -> None:
    (folder / "weights").write_bytes(b"trained on")
    card = write_card(folder, read_card(folder))
    with pytest.raises(CheckpointError, match="export it again"):
        read_export(card, NAME)


def test_another_format(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is onnx, must be triton"):
        read_export(read_card(folder), NAME, ("triton",))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"extra": 1}, r"unknown keys \['extra'\]"),
        ({"images": "many"}, "images is 'many', must be int"),
        ({"cosine_min_seen": None}, "cosine_min_seen is None, must be float"),
        ({"parts": []}, "parts is .*, must be dict"),
    ],
)
def test_malformed(folder: Path, values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CheckpointError, match=rf"exports\.onnx-f32: .*{complaint}"):
        read_export(changed(folder, **values), NAME)


def test_no_object(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"exports\.onnx-f32"):
        read_export(replace(read_card(folder), exports={NAME: 3}), NAME)
