"""Safetensors files written tensor by tensor.

The library's own writer wants a file's tensors all at once; the format lets the header stand before any of them is
read: eight bytes of its length (little-endian), JSON that names every tensor's type, shape and place, then the tensors.
"""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch

from triptych.models.published.stored import DTYPES, INDEX, StoredTensor

MAX_SHARD_BYTES: Final = 5 * 10**9  # as transformers' own shards
ALIGNMENT: Final = 8
NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}

Tensors = Mapping[str, StoredTensor]


def write_shards(folder: Path, stem: str, tensors: Tensors, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """`STEM.safetensors`, or when larger `STEM-00001-of-0000N.safetensors` and so on with their index.

    One tensor is in memory at a time. A tensor above `max_shard_bytes` has a shard of its own.
    """
    shards = _split(tensors, max_shard_bytes)
    if len(shards) == 1:
        _write(folder / f"{stem}.safetensors", shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        _write(folder / name, shard)
        weight_map |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": sum(map(num_bytes, tensors.values()))}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors{INDEX}").write_text(json.dumps(index, indent=2) + "\n")


def num_bytes(tensor: StoredTensor) -> int:
    """Of its values, in a file or in memory."""
    size = tensor.dtype.itemsize
    for side in tensor.shape:
        size *= side
    return size


def _split(tensors: Tensors, max_shard_bytes: int) -> list[dict[str, StoredTensor]]:
    shards: list[dict[str, StoredTensor]] = [{}]
    used = 0
    for key, tensor in tensors.items():
        if shards[-1] and used + num_bytes(tensor) > max_shard_bytes:
            shards.append({})
            used = 0
        shards[-1][key] = tensor
        used += num_bytes(tensor)
    return shards


def _write(path: Path, tensors: Tensors) -> None:
    # Wide types first, as the library does: every tensor then starts at a multiple of its own width.
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))
    ends = [0]
    for tensor in tensors.values():
        ends.append(ends[-1] + num_bytes(tensor))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers reads no file without it
    for (key, tensor), offsets in zip(tensors.items(), pairwise(ends), strict=True):
        header[key] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": list(offsets)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(_bytes(tensor))


def _bytes(stored: StoredTensor) -> memoryview:
    """The tensor's own memory, not a copy."""
    tensor = stored.read()
    assert tensor.shape == stored.shape, (tensor.shape, stored.shape)
    assert tensor.dtype == stored.dtype, (tensor.dtype, stored.dtype)
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
