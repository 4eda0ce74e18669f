"""Who takes part in a training step: one process, or the ranks of a `torch.distributed` group."""

import ctypes
import datetime
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from services.trainer.distribution import Distribution
from triptych.errors import InvalidArgument, Unavailable

JOIN_TIMEOUT_S = 300  # for all ranks to come: they import torch and start CUDA
STEP_TIMEOUT_S = 900  # for all ranks to come to the same step: rank 0 may load, or judge, alone for a while
PR_SET_PDEATHSIG = 1  # of Linux's prctl
LOST_TOUCH = re.compile(r"gloo.*(closed by peer|reset by peer|Broken pipe|Timed out|refused)", re.DOTALL)


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. Making one starts nothing."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all ranks, on every rank; without gradients. Every rank must call it."""
        total = value.detach().clone()
        if self.world_size > 1:
            dist.all_reduce(total)
        return total


ALONE = Ranks()


@contextmanager
def joined(distribution: Distribution | None, join_timeout_s: float = JOIN_TIMEOUT_S) -> Iterator[Ranks]:
    """Within the block, this process is a rank of the group that `python -m torch.distributed.run` has started.

    Without a distribution there is no group; one process by itself is a group of one. Raises InvalidArgument, before
    any group is formed, when processes or GPUs are not those the distribution says, and Unavailable naming the ranks
    that have not come in time, or when the others are lost on the way.
    """
    started = int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1
    wanted = distribution.num_ranks if distribution else 1
    if started != wanted:
        raise InvalidArgument(f"num_nodes x num_processes is {wanted}, but {started} processes were started")
    if distribution is None:
        yield ALONE
        return
    device = _device(distribution)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # CPU tensors keep a backend of their own beside nccl: training states are written through it.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    rank, store = _meet(join_timeout_s) if started > 1 else (0, HashStore())
    if started > 1 and sys.platform == "linux":
        # SIGKILL to torch's launcher would leave its ranks to train on, beside those that a new one starts.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    timeout = datetime.timedelta(seconds=STEP_TIMEOUT_S)
    dist.init_process_group(backend, store=store, rank=rank, world_size=started, timeout=timeout)
    try:
        yield Ranks(rank, started, device)
    except RuntimeError as error:
        if started > 1 and is_lost_touch(error):
            raise Unavailable(f"rank {rank} of {started} has lost the others: {str(error).splitlines()[0]}") from error
        raise
    finally:
        dist.destroy_process_group()


def is_lost_touch(error: RuntimeError) -> bool:
    """Whether a collective failed because of another rank. gloo has no error class of its own."""
    return isinstance(error, dist.DistError) or bool(LOST_TOUCH.search(str(error)))


def _device(distribution: Distribution) -> torch.device:
    visible = torch.cuda.device_count()
    kind = distribution.device if distribution.device != "auto" else "cuda" if visible else "cpu"
    if kind == "cuda" and distribution.num_processes > visible:
        raise InvalidArgument(
            f"num_processes {distribution.num_processes} is more than the {visible} GPUs that can be seen here"
        )
    return torch.device(kind, int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device(kind)


def _meet(timeout_s: float) -> tuple[int, Store]:
    """This process's rank and the store of all ranks, once all have come."""
    timeout = datetime.timedelta(seconds=timeout_s)
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    store = PrefixStore("triptych", store)
    store.set(f"here/{rank}", "")
    try:
        store.wait([f"here/{other}" for other in range(world_size)], timeout)
    except dist.DistStoreError:
        missing = [str(other) for other in range(world_size) if not store.check([f"here/{other}"])]
        raise Unavailable(
            f"rank {', '.join(missing)} of {world_size} has not come within {timeout_s:g} s (see its node's log)"
        ) from None
    return rank, store
