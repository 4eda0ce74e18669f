"""Reading and writing folders in the transformers and diffusers formats, offline and strictly."""

import copy
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from triptych.errors import CheckpointError

M = TypeVar("M", bound=nn.Module)


def read_transformers(cls: type[M], folder: Path) -> M:
    """A transformers model in float32 from a local folder. Raises CheckpointError naming missing keys or files."""
    _require(folder, "config.json")
    try:
        model, info = cls.from_pretrained(  # type: ignore[attr-defined]
            str(folder), local_files_only=True, dtype=torch.float32, output_loading_info=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    wrong = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys") if info.get(key)}
    if wrong:
        raise CheckpointError(f"{folder}: {wrong}")
    return model  # type: ignore[no-any-return]


def read_diffusers(cls: type[M], folder: Path) -> M:
    """A diffusers model in float32 from a local folder. Raises CheckpointError naming what is wrong."""
    _require(folder, "config.json")
    try:
        model, info = cls.from_pretrained(  # type: ignore[attr-defined]
            str(folder), local_files_only=True, output_loading_info=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    wrong = {key: info[key] for key in ("missing_keys", "unexpected_keys") if info.get(key)}
    if wrong:
        raise CheckpointError(f"{folder}: {wrong}")
    return model.float()  # type: ignore[no-any-return]


def write_transformers(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """save_pretrained in `dtype`, leaving the model itself as it is; works for both libraries."""
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(dtype).save_pretrained(str(folder), safe_serialization=True)


def _require(folder: Path, name: str) -> None:
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder / name} is missing")
