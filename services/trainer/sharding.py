"""FSDP2 around an objective's module: sharded or copied parameters, gradients summed, whole again for writing."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from services.trainer.distribution import Distribution
from services.trainer.ranks import Ranks

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def shard(module: nn.Module, blocks: list[nn.Module], distribution: Distribution, ranks: Ranks) -> None:
    """Each block, then what is left of the module, on `ranks.device`; in place.

    Trained parameters become float32, whatever is computed in, a block at a time: with `shard`, no rank holds all.
    Gradients are summed in float32, not averaged: the ranks' shares of the loss add up.
    """
    shape = (ranks.world_size,) if distribution.shard else (ranks.world_size, 1)
    mesh = init_device_mesh(ranks.device.type, shape, mesh_dim_names=("copies", "shards")[-len(shape) :])
    policy = MixedPrecisionPolicy(param_dtype=DTYPES[distribution.precision], reduce_dtype=torch.float32)
    for block in blocks:
        _to_float32(block)
        if distribution.activation_checkpointing:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    if not isinstance(module, FSDPModule):
        _to_float32(module)
        fully_shard(module, mesh=mesh, mp_policy=policy)
    for part in _sharded(module):
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo has no reduction that multiplies as well


def _to_float32(module: nn.Module) -> None:
    """What is trained and not sharded yet."""
    for parameter in module.parameters():
        if parameter.requires_grad and not isinstance(parameter, DTensor):
            parameter.data = parameter.data.float()


def sum_gradients(module: nn.Module, now: bool) -> None:
    """Whether the next backward pass ends with the sum over ranks, or only adds to this rank's own, in float32."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(now)


def drop_whole(module: nn.Module) -> None:
    """Forgets what a forward pass without a backward pass has gathered: it would be used again after weights change."""
    for part in _sharded(module):
        part.reshard()


def local(tensor: Tensor) -> Tensor:
    """This rank's shard, sharing memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of it, on every rank. Every rank must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def whole_weights(module: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Within the block, rank 0's module holds whole parameters, on the CPU; it is not to be run.

    Gathered one parameter at a time, so that a GPU never holds more than one of them. Every rank must enter.
    """
    drop_whole(module)
    places = [(part, name, p) for part in module.modules() for name, p in part.named_parameters(recurse=False)]
    gathered: dict[int, nn.Parameter] = {}  # by the shard's identity: tied weights stay tied
    for _, _, parameter in places:
        if isinstance(parameter, DTensor) and id(parameter) not in gathered:
            tensor = whole(parameter.detach())
            if ranks.is_first:
                gathered[id(parameter)] = nn.Parameter(tensor.cpu(), parameter.requires_grad)
    try:
        for part, name, parameter in places:
            if id(parameter) in gathered:
                part._parameters[name] = gathered[id(parameter)]
        yield
    finally:
        for part, name, parameter in places:
            part._parameters[name] = parameter


def _sharded(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]
