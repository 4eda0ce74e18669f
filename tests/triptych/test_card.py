"""Cards: strict reading, digests that notice, spaces that pair."""

import errno
import json
import subprocess
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path
from typing import Any

import pytest

from triptych.card import (
    Card,
    Port,
    Probes,
    folder_digest,
    matches,
    read_card,
    replace_card,
    verify_digest,
    write_card,
)
from triptych.errors import CheckpointError

CARD = Card(
    kind="encoder",
    name="siglip-tiny+mlp",
    version="1.2.0",
    made_by={"recipe": "genllava-tiny", "seed": 0},
    inputs=(Port("image", "image"),),
    outputs=(Port("embeddings", "embeddings", space="tiny/llm-input@3f9a", dtype="bf16", shape=(64, 256)),),
    facts={"num_image_tokens": 64, "max_pixels": 16777216},
    probes=Probes("probes.safetensors", 0.999),
    exports={"onnx-fp32": {"cosine_min_seen": 0.99999, "images": 32}},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "encoder"
    (folder / "vision").mkdir(parents=True)
    (folder / "vision" / "config.json").write_text("{}")
    (folder / "vision" / "model.safetensors").write_bytes(b"weights")
    (folder / "probes.safetensors").write_bytes(b"probes")
    return folder


def edited(folder: Path, **changes: Any) -> None:
    """Rewrites card.json with some keys changed (None removes)."""
    values = json.loads((folder / "card.json").read_text()) | changes
    (folder / "card.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def test_round_trip(folder: Path) -> None:
    written = write_card(folder, CARD)
    assert written == replace(CARD, digest=folder_digest(folder))
    assert read_card(folder) == written
    verify_digest(folder, written)


def test_a_replaced_card_keeps_its_digest(folder: Path) -> None:
    """Whatever has become of the files: what is replaced says nothing about them."""
    written = write_card(folder, CARD)
    (folder / "probes.safetensors").write_bytes(b"changed")
    replace_card(folder, replace(written, exports={}))
    assert read_card(folder) == replace(written, exports={})
    with pytest.raises(CheckpointError, match="half-copied or changed"):
        verify_digest(folder, written)


def test_a_card_that_cannot_be_written_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_card(folder, CARD)
    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_card(folder, replace(CARD, version="2.0.0"))
    assert read_card(folder) == written
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "probes.safetensors", "vision"]


def disk_full(path: Path, text: str, encoding: str) -> None:
    """Path.write_text: the start of it is there, the rest is not."""
    path.write_bytes(text[:200].encode())
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_killed_writer_s_card_is_no_file_of_the_component(folder: Path) -> None:
    written = write_card(folder, CARD)
    (folder / ".card.json.partial").write_text('{"kind"')
    verify_digest(folder, written)
    assert write_card(folder, CARD) == written
    assert not (folder / ".card.json.partial").exists()


def test_a_card_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        CARD.name = "other"  # type: ignore[misc]


def test_ports_by_name() -> None:
    assert CARD.output("embeddings").shape == (64, 256)
    assert CARD.input("image").type == "image"
    with pytest.raises(
        CheckpointError, match=r"encoder siglip-tiny\+mlp 1.2.0 has no output 'hidden_states'.*embeddings"
    ):
        CARD.output("hidden_states")


def test_missing_card(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"card\.json is missing"):
        read_card(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"card"', b"\xff\xfe"])
def test_malformed_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"card\.json"):
        read_card(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nmae": "x"}, r"unknown keys \['nmae'\]"),
        ({"name": None}, r"misses \['name'\]"),
        ({"name": 3}, r"card\.name is 3, must be str"),
        ({"kind": "trainer"}, "kind is 'trainer', must be one of encoder, llm, decoder"),
        ({"facts": []}, r"card\.facts is \[\], must be dict"),
        ({"inputs": {}}, r"card\.inputs is \{\}, must be list"),
        ({"inputs": ["image"]}, r"inputs\[0\] is str, must be an object"),
        ({"inputs": [{"name": "image"}]}, r"inputs\[0\] misses \['type'\]"),
        ({"outputs": [{"name": "e", "type": "embeddings"}]}, "port 'e' of type embeddings needs a space"),
        ({"outputs": [{"name": "i", "type": "image", "sapce": "s"}]}, r"outputs\[0\] has unknown keys \['sapce'\]"),
        (
            {"outputs": [{"name": "i", "type": "image", "shape": [1.5]}]},
            r"outputs\[0\]\.shape is \[1.5\], must be a list",
        ),
        ({"outputs": [{"name": "i", "type": "image", "accepts": [1]}]}, r"accepts is \[1\], must be a list of str"),
        ({"probes": {"file": "../p", "cosine_min": 0.9}}, "must be a path inside the component's folder"),
        ({"probes": {"file": "/p", "cosine_min": 0.9}}, "must be a path inside the component's folder"),
        ({"probes": {"file": "p", "cosine_min": 0}}, "cosine_min is 0, must be above 0"),
        ({"probes": {"file": "p", "cosine_min": True}}, "cosine_min is True, must be float"),
        ({"probes": {"file": "p", "cosine_min": 0.9, "bar": 1}}, r"probes has unknown keys \['bar'\]"),
    ],
)
def test_malformed_cards(folder: Path, changes: dict[str, Any], message: str) -> None:
    write_card(folder, CARD)
    edited(folder, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_card(folder)
    assert "card.json" in str(caught.value)


def test_a_card_may_have_no_probes(folder: Path) -> None:
    write_card(folder, replace(CARD, probes=None))
    assert read_card(folder).probes is None


@pytest.mark.parametrize("change", ["content", "rename", "extra", "gone", "swap"])
def test_digest_notices(folder: Path, change: str) -> None:
    card = write_card(folder, CARD)
    weights, config = folder / "vision" / "model.safetensors", folder / "vision" / "config.json"
    if change == "content":
        weights.write_bytes(b"weightz")
    elif change == "rename":
        weights.rename(folder / "model.safetensors")
    elif change == "extra":
        (folder / ".hidden").write_text("")
    elif change == "gone":
        config.unlink()
    else:
        first, second = weights.read_bytes(), config.read_bytes()
        weights.write_bytes(second)
        config.write_bytes(first)
    with pytest.raises(CheckpointError) as caught:
        verify_digest(folder, card)
    for part in (card.label, card.digest, folder_digest(folder)):
        assert part in str(caught.value)


def test_digest_leaves_out_only_the_folders_own_card(folder: Path) -> None:
    before = folder_digest(folder)
    (folder / "card.json").write_text("{}")
    assert folder_digest(folder) == before
    (folder / "vision" / "card.json").write_text("{}")
    assert folder_digest(folder) != before


def test_digest_is_the_sum_of_the_sha256sum_listing(folder: Path) -> None:
    command = "find . -type f ! -path ./card.json -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    assert folder_digest(folder) == "sha256:" + done.stdout.split()[0]


def test_digest_does_not_depend_on_where_the_folder_is(folder: Path) -> None:
    before = folder_digest(folder)
    assert folder_digest(folder.rename(folder.with_name("moved"))) == before


@pytest.mark.parametrize("target", ["inside", "outside", "directory", "dangling"])
def test_symlinks_are_refused(folder: Path, tmp_path: Path, target: str) -> None:
    outside = tmp_path / "secret"
    outside.write_text("secret")
    targets = {
        "inside": folder / "probes.safetensors",
        "outside": outside,
        "directory": tmp_path,
        "dangling": tmp_path / "nowhere",
    }
    (folder / "vision" / "link").symlink_to(targets[target])
    with pytest.raises(CheckpointError, match="symbolic link"):
        folder_digest(folder)


def test_digest_of_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        folder_digest(tmp_path / "nowhere")


def test_spaces_pair() -> None:
    output = Port("embeddings", "embeddings", space="a@1")
    assert matches(output, Port("embeddings", "embeddings", space="a@1"))
    assert not matches(output, Port("embeddings", "embeddings", space="a@2"))
    assert matches(output, Port("embeddings", "embeddings", space="a@2", accepts=("a@0", "a@1")))
    assert not matches(output, Port("hidden_states", "hidden_states", space="a@1"))
    assert matches(Port("image", "image"), Port("image", "image"))


def test_accepting_is_one_way() -> None:
    newer = Port("hidden_states", "hidden_states", space="b@2", accepts=("b@1",))
    older = Port("hidden_states", "hidden_states", space="b@1")
    assert matches(older, newer)
    assert not matches(newer, older)


def test_written_keys_are_those_of_the_design(folder: Path) -> None:
    write_card(folder, CARD)
    values = json.loads((folder / "card.json").read_text())
    assert set(values) == set(asdict(CARD))
    assert values["inputs"] == [{"name": "image", "type": "image"}]
