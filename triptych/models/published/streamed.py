"""Modules without memory: built empty, and each part's weights read when it runs and dropped when it has run.

What a checkpoint's golden probes need: a forward pass in float32 through a model that may be larger than the memory.
"""

from collections.abc import Callable, Mapping
from functools import partial
from mmap import mmap
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from triptych.models.published.stored import StoredTensor

M = TypeVar("M", bound=nn.Module)


def build_empty(build: Callable[[], M]) -> M:
    """What `build` returns, with parameters that have a shape only; buffers, which files do not hold, are real."""
    with init_empty_weights(include_buffers=False):
        return build().eval().requires_grad_(False)


def stream(module: nn.Module, tensors: Mapping[str, StoredTensor]) -> None:
    """Ties an empty module's parameters to `tensors`, by its own names: from now on it computes in float32 on the CPU.

    One submodule's own parameters are in memory at a time. A submodule that uses another's weight without calling it
    gets NaN.
    """
    for prefix, part in module.named_modules():
        own = {name: tensors[f"{prefix}.{name}" if prefix else name] for name in dict(part.named_parameters("", False))}
        if own:
            _drop(own, part)
            part.register_forward_pre_hook(partial(_fill, own))
            part.register_forward_hook(partial(_drop, own))


def _fill(own: Mapping[str, StoredTensor], part: nn.Module, *_: Any) -> None:
    for name, tensor in own.items():
        setattr(part, name, _parameter(_in_float32(tensor)))


def _drop(own: Mapping[str, StoredTensor], part: nn.Module, *_: Any) -> None:
    for name, tensor in own.items():
        setattr(part, name, _parameter(torch.tensor(torch.nan).expand(tensor.shape)))


def _in_float32(tensor: StoredTensor) -> Tensor:
    """In memory straight from the kernel, which goes back there when the tensor dies: the C library's heap, asked for
    large aligned blocks of changing sizes again and again, grows by most of the model."""
    stored = tensor.read()
    if stored.dtype == torch.float32:
        return stored
    memory = torch.frombuffer(mmap(-1, 4 * stored.numel()), dtype=torch.float32)
    return memory.view(stored.shape).copy_(stored)


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
