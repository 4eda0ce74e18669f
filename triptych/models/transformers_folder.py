"""Reading and writing folders in the transformers and diffusers formats, offline and strictly."""

import copy
import json
from pathlib import Path, PurePath
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from triptych.errors import CheckpointError
from triptych.models.json_file import read_json

M = TypeVar("M", bound=nn.Module)
FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # as safetensors calls them


def read_transformers(cls: type[M], folder: Path, dtype: torch.dtype | None = torch.float32) -> M:
    """A transformers model from a local folder, its parameters as `dtype`, its buffers as precise as it makes them.
    None: as they are stored; float32, if some are stored otherwise than others.

    Weights that are stored so are not copied: the model's memory is the mapped file, which must not be written to.
    Raises CheckpointError naming missing keys or files.
    """
    _require(folder / "config.json")
    stored = _require_weights(folder / "model.safetensors")
    dtype = dtype or (stored.pop() if len(stored) == 1 else torch.float32)
    try:
        model, info = cls.from_pretrained(  # type: ignore[attr-defined]
            str(folder), local_files_only=True, dtype=dtype, output_loading_info=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    wrong = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys") if info.get(key)}
    if wrong:
        raise CheckpointError(f"{folder}: {wrong}")
    return model  # type: ignore[no-any-return]


def read_diffusers(cls: type[M], folder: Path, dtype: torch.dtype = torch.float32) -> M:
    """As `read_transformers`, for diffusers."""
    _require(folder / "config.json")
    _require_weights(folder / "diffusion_pytorch_model.safetensors")
    try:
        model, info = cls.from_pretrained(  # type: ignore[attr-defined]
            str(folder),
            local_files_only=True,
            torch_dtype=dtype,
            output_loading_info=True,
            low_cpu_mem_usage=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    wrong = {key: info[key] for key in ("missing_keys", "unexpected_keys") if info.get(key)}
    if wrong:
        raise CheckpointError(f"{folder}: {wrong}")
    return model  # type: ignore[no-any-return]


def write_transformers(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """save_pretrained in `dtype`, leaving the model itself as it is; works for both libraries.

    Without the folder that the model was once loaded from, which diffusers would note: equal models, equal files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(dtype).save_pretrained(str(folder), safe_serialization=True)
    config = read_json(folder / "config.json")
    if config.pop("_name_or_path", None) is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _require(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")


def _shards(index: Path) -> set[str]:
    """Files beside the index: what lies elsewhere is no part of the component, and not in its digest."""
    weight_map = read_json(index).get("weight_map", {})
    names = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()
    if not names or any(name != PurePath(name).name or not name.endswith(".safetensors") for name in names):
        raise CheckpointError(f"{index}: weight_map must name safetensors files beside it")
    return names


def _require_weights(path: Path) -> set[torch.dtype]:
    """One whole safetensors file, or all shards that its index names; returns the floating-point types in them."""
    index = path.with_name(path.name + ".index.json")
    names = _shards(index) if index.is_file() else {path.name}
    found: set[str] = set()
    for part in sorted(path.with_name(name) for name in names):
        _require(part)
        try:
            with safe_open(part, "pt") as file:  # reads the header, and compares it with the file's length
                found |= {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 (it is no dict)
        except SafetensorError as error:
            raise CheckpointError(f"{part} cannot be read: {error}") from error
    return {FLOATS[name] for name in found & FLOATS.keys()}
