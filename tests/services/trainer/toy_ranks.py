"""A small transformer trained by one process or several, and the program that is a rank of it.

`python -m torch.distributed.run ... -m tests.services.trainer.toy_ranks RUNS`: RUNS is a JSON list of what `Run` holds,
done one after the other in one group (starting torch takes longer than training this).
"""

import json
import os
import resource
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from services.trainer.config import Stage
from services.trainer.distribution import Distribution
from services.trainer.objectives.base import Objective
from services.trainer.ranks import ALONE, Ranks, joined
from services.trainer.train import train_stage
from tests.services.trainer.tiny_recipe import tiny_recipe
from triptych.errors import TriptychError

STEPS: Final = 20
BATCH_SIZE: Final = 8
LENGTH: Final = 6
SIZE: Final = 12
CONFIG: Final[dict[str, Any]] = {
    "steps": STEPS,
    "batch_size": BATCH_SIZE,
    "learning_rate": 0.01,
    "warmup_steps": 2,
    "lr_floor": 1.0,  # so that a shorter run is the beginning of a longer one
    "save_every": 3,
    "evaluate_every": 10,
    "ema_decay": 0.9,
}


class Model(nn.Module):
    """Reads (B, T, 5); writes (B, T, 7), and (N, 3) for the N samples that are to be drawn."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Linear(5, SIZE)
        self.frozen = nn.Linear(SIZE, SIZE).to(torch.bfloat16).requires_grad_(False)  # as a big one would be loaded
        layer = nn.TransformerEncoderLayer(SIZE, 2, 16, dropout, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).layers
        self.write = nn.Linear(SIZE, 7)  # rows that two ranks cannot share evenly
        self.draw = nn.Linear(SIZE, 3)

    def forward(self, x: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The last is nothing, made of the drawing part: without samples to draw, the graph is still the same."""
        hidden = self.embed(x)
        weight, bias = self.frozen.weight.to(hidden.dtype), self.frozen.bias.to(hidden.dtype)
        hidden = hidden + linear(hidden, weight, bias)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.write(hidden), self.draw(hidden[wanted, -1]), 0 * self.draw(torch.zeros_like(hidden[:1, -1])).sum()


class ToyRanks(Objective):
    """Learns sums of what it reads; a frozen linear map that is no part of its module looks at what it draws."""

    name = "toy"
    is_distributed = True

    def __init__(self, ranks: Ranks = ALONE, dropout: float = 0.0, muon: bool = False, **changed: Any) -> None:
        super().__init__(tiny_recipe(), {}, ranks)
        self._config, self.muon = Stage(**(CONFIG | changed)), muon
        torch.manual_seed(0)
        self.model = Model(dropout)
        self.eye = nn.Linear(3, 3).requires_grad_(False).to(ranks.device)
        self.losses: list[float] = []
        self.at_step = lambda step: None

    @property
    def config(self) -> Stage:
        return self._config

    @property
    def module(self) -> nn.Module:
        return self.model

    def blocks(self) -> list[nn.Module]:
        return list(self.model.layers)

    def parameter_groups(self) -> list[dict[str, object]]:
        groups = super().parameter_groups()
        if self.muon:
            matrices = [layer.linear1.weight for layer in self.model.layers]
            kept = {id(p) for p in matrices}
            plain = [p for p in self.model.parameters() if p.requires_grad and id(p) not in kept]
            groups = [{"params": plain, "lr_scale": 1.0}, {"params": matrices, "lr_scale": 1.0, "muon": True}]
        return groups

    def backward(self, step: int) -> dict[str, Tensor]:
        self.at_step(step)
        x = torch.randn(BATCH_SIZE, LENGTH, 5, generator=torch.Generator().manual_seed(step)).to(self.ranks.device)
        wanted = torch.rand(BATCH_SIZE, generator=torch.Generator().manual_seed(step)) < 0.5
        if step % 3 == 0:
            wanted[BATCH_SIZE // 2 :] = False  # the last of two ranks has none, and at step 6 none has
        share = BATCH_SIZE // self.ranks.world_size
        mine = torch.arange(share * self.ranks.rank, share * (self.ranks.rank + 1))
        num_wanted = max(1, int(self.ranks.sum(wanted[mine].sum().to(self.ranks.device))))
        distribution = self.config.distribution
        figures: dict[str, Tensor] = {}
        for part in self.micro_batches(mine.split((distribution and distribution.micro_batch_size) or share)):
            for key, value in self._part(x[part], wanted[part], num_wanted).items():
                figures[key] = figures.get(key, torch.zeros(())) + value.detach()
        self.losses.append(float(self.ranks.sum(figures["loss"])))
        return figures

    def _part(self, x: Tensor, wanted: Tensor, num_wanted: int) -> dict[str, Tensor]:
        written, drawn, nothing = self.model(x, wanted)
        text = (written.float() - x.sum(-1, keepdim=True) / 2).square().sum() / (BATCH_SIZE * LENGTH * 7)
        picture = (self.eye(drawn.float()) - x[wanted].sum((1, 2))[:, None] / 5).square().sum() / (3 * num_wanted)
        loss = text + picture + nothing
        loss.backward()
        return {"loss": loss, "text": text, "picture": picture}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        assert not self.model.training
        x = torch.randn(BATCH_SIZE, LENGTH, 5, generator=torch.Generator().manual_seed(-1))
        written, _, _ = self.model(x.to(self.ranks.device), torch.ones(BATCH_SIZE, dtype=torch.bool))
        return {"error": float(written.float().abs().mean())}

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"weights": self.model.state_dict(), "losses": self.losses}, folder / "made.pt")


@dataclass(frozen=True)
class Run:
    """One stage; `kill` and `full_disk` are [rank, step]: SIGKILL there, or no file may grow there until it fails."""

    folder: str
    distribution: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    kill: list[int] | None = None
    full_disk: list[int] | None = None
    digest: str = "d"

    def make(self, ranks: Ranks) -> ToyRanks:
        toy = ToyRanks(ranks, distribution=self.distribution, **self.settings)
        toy.at_step = lambda step: self._at_step([ranks.rank, step])
        return toy

    def _at_step(self, here: list[int]) -> None:
        if here == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if here == self.full_disk:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def train(run: Run, ranks: Ranks) -> None:
    """A run that fails leaves in `folder` what each rank says, and a list of its states."""
    folder = Path(run.folder)
    try:
        train_stage(run.make(ranks), folder, run.digest, lambda figures: print(json.dumps(figures), flush=True))
    except TriptychError as error:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        left = sorted(path.name for path in folder.glob("states/*"))
        said = {"error": f"{type(error).__name__}: {error}", "states": left}
        (folder / f"error-{ranks.rank}.json").write_text(json.dumps(said))


def main() -> None:
    """Every run in turn."""
    torch.set_num_threads(1)
    runs = [Run(**values) for values in json.loads(sys.argv[1])]
    with joined(Distribution.model_validate(runs[0].distribution)) as ranks:
        for run in runs:
            train(run, ranks)


if __name__ == "__main__":
    main()
