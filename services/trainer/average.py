"""The moving average of a module's weights, and putting it in their place."""

import torch
from torch import Tensor, nn

from services.trainer.sharding import drop_whole, local


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """By name."""
    return {key: p for key, p in module.named_parameters() if p.requires_grad}


class Ema:
    """Exponential moving average of a module's weights, with a warm-up so that early steps do not linger.

    Sharded as the weights are: every rank averages its own part.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {key: value.detach().clone() for key, value in trained(module).items()}

    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        now = trained(module)
        own, new = [local(w) for w in self.weights.values()], [local(now[key].detach()) for key in self.weights]
        torch._foreach_lerp_(own, new, 1 - decay)


class Averaged:
    """Within the block, the module carries the averaged weights and is in evaluation mode."""

    def __init__(self, module: nn.Module, ema: Ema | None) -> None:
        self.module, self.ema = module, ema

    def __enter__(self) -> None:
        self.module.eval()
        self.kept = {k: v.detach().clone() for k, v in trained(self.module).items()} if self.ema else {}
        if self.ema:
            self._put(self.ema.weights)

    def __exit__(self, *_: object) -> None:
        drop_whole(self.module)
        self._put(self.kept)
        self.module.train()

    def _put(self, weights: dict[str, Tensor]) -> None:
        now = trained(self.module)
        with torch.no_grad():
            for key, value in weights.items():
                now[key].copy_(value)
