"""Objectives small enough to train to the end many times over, and to kill at any step."""

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from services.trainer.config import Stage
from services.trainer.objectives.base import Objective
from tests.services.trainer.tiny_recipe import tiny_recipe

STEPS: Final = 11
CONFIG: Final[dict[str, Any]] = {
    "steps": STEPS,
    "batch_size": 4,
    "learning_rate": 0.05,
    "warmup_steps": 2,
    "save_every": 3,
    "evaluate_every": 4,
    "ema_decay": 0.9,
}


class Stop(Exception):
    """The run was killed."""


class Toy(Objective):
    """Fits y = sum(x) with a small network; a frozen layer stands in front of it."""

    name = "toy"

    def __init__(self, stop_at: int | None = None, **changed: Any) -> None:
        super().__init__(tiny_recipe(), {})
        self.stop_at = stop_at
        self._config = Stage(**(CONFIG | changed))
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 1)
        frozen = nn.Linear(3, 3).requires_grad_(False)
        self.model = nn.Sequential(frozen, self.first, nn.Tanh(), self.last)
        self.steps: list[int] = []
        self.judged: list[Tensor] = []

    @property
    def config(self) -> Stage:
        return self._config

    @property
    def module(self) -> nn.Module:
        return self.model

    def parameter_groups(self) -> list[dict[str, object]]:
        return [
            {"params": list(self.first.parameters()), "lr_scale": 1.0},
            {"params": list(self.last.parameters()), "lr_scale": 0.5},
        ]

    def backward(self, step: int) -> dict[str, Tensor]:
        if step == self.stop_at:
            raise Stop
        self.steps.append(step)
        x = torch.randn(self.config.batch_size, 3, generator=torch.Generator().manual_seed(step))
        loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        return {"loss": loss}

    def evaluate(self) -> dict[str, float]:
        assert not self.model.training
        self.judged.append(self.first.weight.detach().clone())
        return {"accuracy": 0.5}

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), folder / "weights.pt")


class LosesGradients(Toy):
    """A toy whose compiled form loses a gradient, as torch's CPU compiler has been seen to do."""

    def __init__(self, loses: str) -> None:
        super().__init__(ema_decay=0.0)
        self.loses = loses
        self.compiled = False

    def compile(self) -> None:
        self.compiled = True

    def uncompile(self) -> None:
        self.compiled = False

    def backward(self, step: int) -> dict[str, Tensor]:
        figures = super().backward(step)
        weight = self.first.weight
        if self.compiled and weight.grad is not None:
            if self.loses == "to zeros":
                weight.grad.zero_()
            elif self.loses == "to noise":
                weight.grad.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
            elif self.loses == "altogether":
                weight.grad = None
        return figures
