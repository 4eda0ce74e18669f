"""Weights as they lie in files: names, types and shapes at once, each tensor only when it is asked for."""

import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from triptych.errors import CheckpointError
from triptych.models.json_file import read_value

DTYPES: Final = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INDEX: Final = ".index.json"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file. `read` maps the file for as long as the tensor lives, so that at most it is in memory."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    def reshaped(self, shape: tuple[int, ...]) -> "StoredTensor":
        """The same values in the same order."""
        return StoredTensor(self.dtype, shape, lambda: self.read().reshape(shape))


def read_stored(folder: Path, stems: Iterable[str]) -> dict[str, StoredTensor]:
    """All tensors of a folder by key, from the first that is there: for each stem, `STEM.safetensors`, its shards by
    their index, then `STEM.bin` likewise.

    Raises CheckpointError naming the folder without weights, or the file that is missing or cannot be read.
    """
    names = [f"{stem}{suffix}" for suffix in (".safetensors", ".bin") for stem in stems]
    for name in names:
        if files := _files(folder, name):
            listed = _list_safetensors if name.endswith(".safetensors") else _list_bin
            return _together({file: listed(file) for file in files})
    raise CheckpointError(f"{folder} holds no weights: none of {', '.join(names)}, nor their {INDEX}")


def _files(folder: Path, name: str) -> list[Path]:
    if (folder / name).is_file():
        return [folder / name]
    index = folder / (name + INDEX)
    if not index.is_file():
        return []
    weight_map = read_value(index, "weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map names no files")
    files = sorted({folder / Path(str(file)).name for file in weight_map.values()})  # shards lie beside their index
    if missing := [str(file) for file in files if not file.is_file()]:
        raise CheckpointError(f"{', '.join(missing)} is missing, but {index} names it")
    return files


def _together(shards: dict[Path, dict[str, StoredTensor]]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for file, shard in shards.items():
        if twice := tensors.keys() & shard.keys():
            raise CheckpointError(f"{file}: {min(twice)} is in another shard, too")
        tensors |= shard
    return tensors


def _list_safetensors(file: Path) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    try:
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118 (it has no __iter__)
                slice_ = opened.get_slice(key)
                tensors[key] = _stored(file, key, DTYPES.get(slice_.get_dtype()), slice_.get_shape(), _read_safetensors)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    return tensors


def _read_safetensors(file: Path, key: str) -> Tensor:
    with safe_open(file, "pt") as opened:
        return opened.get_tensor(key)  # type: ignore[no-any-return]


def _list_bin(file: Path) -> dict[str, StoredTensor]:
    state = _open_bin(file)
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise CheckpointError(f"{file} holds no dict of tensors by name")
    return {key: _stored(file, key, value.dtype, value.shape, _read_bin) for key, value in state.items()}


def _read_bin(file: Path, key: str) -> Tensor:
    tensor: Tensor = _open_bin(file)[key]
    return tensor


def _open_bin(file: Path) -> Any:
    """A pickle, read without running what it may hold; mapped, not copied."""
    try:
        return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (EOFError, OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def _stored(
    file: Path, key: str, dtype: torch.dtype | None, shape: Iterable[int], read: Callable[[Path, str], Tensor]
) -> StoredTensor:
    # Buffers of integers (position ids) are listed too: whether they are wanted is for others to say.
    return StoredTensor(dtype or torch.int64, tuple(shape), lambda: read(file, key))
