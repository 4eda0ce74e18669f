"""Folders from strangers: cards, indexes, probes and key files, broken in every way we could think of."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.profiles import examples
from triptych import strict_json
from triptych.card import Card, Port, folder_digest, read_card, verify_digest, write_card
from triptych.errors import CheckpointError, InvalidArgument
from triptych.keys import read_keys
from triptych.models.json_file import read_json
from triptych.models.transformers_folder import _require_weights
from triptych.serving.probes import read_probes

GOOD = {"kind": "llm", "name": "tiny", "version": "1"}
HOSTILE = {
    "deep": "[" * 200_000,
    "deep facts": '{"kind": "llm", "name": "a", "version": "1", "facts": ' + '{"a":' * 100_000 + "1" + "}" * 100_001,
    "long number": '{"kind": "llm", "name": "a", "version": "1", "facts": {"x": ' + "9" * 5000 + "}}",
    "NaN": '{"kind": "llm", "name": "a", "version": "1", "facts": {"x": NaN}}',
    "twice": '{"kind": "llm", "kind": "decoder", "name": "a", "version": "1"}',
    "long name": json.dumps({**GOOD, "name": "a" * 300}),
    "line break": json.dumps({**GOOD, "name": "a\nb"}),
    "escape": json.dumps({**GOOD, "version": "\x1b[2J"}),
    "probes above": json.dumps({**GOOD, "probes": {"file": "../x", "cosine_min": 1}}),
    "probes absolute": json.dumps({**GOOD, "probes": {"file": "/etc/passwd", "cosine_min": 1}}),
    "probes backslash": json.dumps({**GOOD, "probes": {"file": "..\\x", "cosine_min": 1}}),
    "probes nul": json.dumps({**GOOD, "probes": {"file": "a\0", "cosine_min": 1}}),
    "shape of true": json.dumps({**GOOD, "inputs": [{"name": "a", "type": "image", "shape": [True]}]}),
    "shape too large": json.dumps({**GOOD, "inputs": [{"name": "a", "type": "image", "shape": [2**70]}]}),
    "shape too long": json.dumps({**GOOD, "inputs": [{"name": "a", "type": "image", "shape": [1] * 9}]}),
    "large": '{"kind": "llm", "version": "1", "name": "' + "a" * 5_000_000 + '"}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_cards(tmp_path: Path, name: str) -> None:
    (tmp_path / "card.json").write_text(HOSTILE[name])
    with pytest.raises(CheckpointError, match=r"card\.json"):
        read_card(tmp_path)


@examples(150)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False)
            | st.sampled_from(["llm", "a", "image"]),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["kind", "name", "version", "inputs", "probes", "shape", "type"]), inner
                )
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
@example(json.dumps({**GOOD, "inputs": {}}).encode())
def test_cards(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "card.json").write_bytes(data)
    (folder / "keys.json").write_bytes(data)
    with pytest.raises((CheckpointError, InvalidArgument)):
        read_keys(folder / "keys.json")
    try:
        assert isinstance(read_card(folder), Card)
    except CheckpointError as error:
        assert "card.json" in str(error)


def test_links_and_pipes_are_no_cards(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(json.dumps(GOOD))
    folder = tmp_path / "llm"
    folder.mkdir()
    (folder / "card.json").symlink_to(secret)
    with pytest.raises(CheckpointError, match="not a plain file"):
        read_card(folder)
    (folder / "card.json").unlink()
    os.mkfifo(folder / "card.json")
    with pytest.raises(CheckpointError, match="not a plain file"):
        read_card(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "sub/config.json", "exports/model.onnx"])
def test_links_out_of_a_component(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "llm"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).symlink_to("/etc/passwd")
    with pytest.raises(CheckpointError, match="symbolic link"):
        folder_digest(folder)


def test_linked_folder_in_a_component(tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "tokenizer").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(CheckpointError, match="symbolic link"):
        folder_digest(tmp_path / "llm")


class Bomb:
    def __reduce__(self) -> Any:
        return (os.system, ("touch exploded",))


@pytest.mark.parametrize("name", ["model.bin", "pytorch_model.PT", "a/scheduler.pkl", "x.npy"])
def test_pickles_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "llm"
    (folder / name).parent.mkdir(parents=True)
    card = write_card(folder, Card("llm", "tiny", "1"))
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="safetensors"):
        verify_digest(folder, card)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["probes.safetensors", "model.safetensors"])
def test_a_pickle_called_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=name):
        read_probes(tmp_path / name) if name.startswith("probes") else _require_weights(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("part", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "model.bin", "..", ""])
def test_index_names_files_beside_it(tmp_path: Path, part: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": part}}))
    with pytest.raises(CheckpointError, match="beside it"):
        _require_weights(tmp_path / "model.safetensors")


@pytest.mark.parametrize("text", ['{"weight_map": []}', "{}", "[]", "[" * 200_000, "\xff"])
def test_broken_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match="index"):
        _require_weights(tmp_path / "model.safetensors")


header = st.one_of(
    st.binary(max_size=80),
    st.dictionaries(
        st.sampled_from(["a/in/x", "a/out", "__metadata__", "../x"]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BF16", "F8_E4M3", "X"]),
                "shape": st.lists(st.sampled_from([0, 1, 2, -1, 2**62]), max_size=3),
                "data_offsets": st.lists(st.sampled_from([0, 4, 8, 2**63]), min_size=2, max_size=2),
            }
        ),
        max_size=3,
    ).map(lambda value: json.dumps(value).encode()),
)


@examples(200)
@given(header, st.integers(-2, 2), st.binary(max_size=16))
@example(b'{"a/out":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}', 0, b"\0" * 4)
@example(b'{"a/in/x":{"dtype":"F8_E4M3","shape":[0],"data_offsets":[0,0]}}', 0, b"")
@example(b"{}", 2**60, b"")
def test_safetensors(tmp_path_factory: pytest.TempPathFactory, head: bytes, off_by: int, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "probes.safetensors"
    path.write_bytes(max(0, len(head) + off_by).to_bytes(8, "little") + head + data)
    try:
        assert read_probes(path)
    except CheckpointError as error:
        assert "probes.safetensors" in str(error)


def test_strict_json_takes_what_is_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2.5, null, true, "x"]}')
    assert strict_json.read(path) == read_json(path) == {"a": [1, 2.5, None, True, "x"]}
    with pytest.raises(ValueError, match="at most 3"):
        strict_json.read(path, max_bytes=3)


def test_a_plain_card_is_still_taken(tmp_path: Path) -> None:
    card = Card("llm", "tiny", "1", inputs=(Port("e", "embeddings", "a@1", "bf16", (-1, 8)),))
    written = write_card(tmp_path, card)
    assert read_card(tmp_path) == written
