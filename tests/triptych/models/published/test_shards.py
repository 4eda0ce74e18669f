"""What is written tensor by tensor, the safetensors library reads."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from triptych.models.published.shards import write_shards
from triptych.models.published.stored import StoredTensor, read_stored

STATE = {
    "matrix": torch.arange(12.0).reshape(3, 4),
    "turned": torch.arange(6, dtype=torch.float16).reshape(2, 3).T,
    "odd": torch.tensor([1.5, 2.5, -3.0], dtype=torch.bfloat16),
    "single": torch.tensor(7.0),
    "empty": torch.empty(0, 3),
    "double": torch.tensor([1 / 3], dtype=torch.float64),
}


def stored(state: dict[str, Tensor]) -> dict[str, StoredTensor]:
    return {
        key: StoredTensor(value.dtype, tuple(value.shape), lambda value=value: value)  # type: ignore[misc]
        for key, value in state.items()
    }


def check(found: dict[str, Tensor]) -> None:
    assert set(found) == set(STATE)
    for key, value in STATE.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)


def test_one_file(tmp_path: Path) -> None:
    write_shards(tmp_path, "model", stored(STATE))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    check(load_file(tmp_path / "model.safetensors"))
    with safe_open(tmp_path / "model.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


@pytest.mark.parametrize(("max_shard_bytes", "num_shards"), [(70, 2), (20, 3), (1, 6)])
def test_shards(tmp_path: Path, max_shard_bytes: int, num_shards: int) -> None:
    write_shards(tmp_path, "model", stored(STATE), max_shard_bytes)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    names = [f"model-{number:05}-of-{num_shards:05}.safetensors" for number in range(1, num_shards + 1)]
    assert sorted({path.name for path in tmp_path.glob("*.safetensors")}) == names
    assert sorted(set(index["weight_map"].values())) == names
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in STATE.values())
    for name in names:
        assert all(index["weight_map"][key] == name for key in load_file(tmp_path / name))
    check({key: tensor.read() for key, tensor in read_stored(tmp_path, ("model",)).items()})
