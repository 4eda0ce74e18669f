"""Who takes part in a training step: one process, or the ranks of a `torch.distributed` group."""

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor


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
