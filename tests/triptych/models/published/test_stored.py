"""Weights are listed without being read, and what cannot be read is named."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from triptych.errors import CheckpointError
from triptych.models.published.stored import read_stored

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}


def test_safetensors_come_before_bin(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    stored = read_stored(tmp_path, ("model", "pytorch_model"))
    assert {key: (tensor.dtype, tensor.shape) for key, tensor in stored.items()} == {
        "a": (torch.float32, (2, 3)),
        "b": (torch.bfloat16, (2,)),
    }
    for key, value in STATE.items():
        assert torch.equal(stored[key].read(), value)


def test_bin(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    stored = read_stored(tmp_path, ("model", "pytorch_model"))
    assert stored["b"].dtype == torch.bfloat16
    for key, value in STATE.items():
        assert torch.equal(stored[key].read(), value)


class Trap:
    """Pickled, it makes a folder when it is read as pickles are."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_bin_runs_nothing(tmp_path: Path) -> None:
    torch.save({"a": Trap(tmp_path / "sprung")}, tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match="model.bin cannot be read"):
        read_stored(tmp_path, ("model",))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("state", [[], {"a": 1}, {1: torch.zeros(1)}])
def test_a_bin_of_something_else_is_named(tmp_path: Path, state: object) -> None:
    torch.save(state, tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match="model.bin holds no dict of tensors"):
        read_stored(tmp_path, ("model",))


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "model.fp16.safetensors").touch()
    with pytest.raises(CheckpointError, match="none of model.safetensors, pytorch_model.safetensors, model.bin"):
        read_stored(tmp_path, ("model", "pytorch_model"))


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-4])
    with pytest.raises(CheckpointError, match="model.safetensors cannot be read"):
        read_stored(tmp_path, ("model",))
    torch.save(STATE, tmp_path / "other.bin")
    (tmp_path / "other.bin").write_bytes((tmp_path / "other.bin").read_bytes()[:100])
    with pytest.raises(CheckpointError, match="other.bin cannot be read"):
        read_stored(tmp_path, ("other",))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save_file({"a": STATE["a"]}, tmp_path / "model-1.safetensors")
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"model-2.safetensors is missing, but .*index.json names it"):
        read_stored(tmp_path, ("model",))


def test_a_tensor_in_two_shards_is_named(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file(STATE, tmp_path / f"model-{number}.safetensors")
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"model-2.safetensors: a is in another shard, too"):
        read_stored(tmp_path, ("model",))


@pytest.mark.parametrize("weight_map", [{}, [], None])
def test_an_index_that_names_nothing(tmp_path: Path, weight_map: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="weight_map names no files"):
        read_stored(tmp_path, ("model",))


def test_an_index_reaches_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file(STATE, tmp_path / "model-1.safetensors")
    index = json.dumps({"weight_map": {"a": "../model-1.safetensors"}})
    (tmp_path / "in" / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"in/model-1.safetensors is missing"):
        read_stored(tmp_path / "in", ("model",))
