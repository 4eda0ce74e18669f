"""Runs of the ranked toy, alone in this process and by two ranks in theirs."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from services.trainer.distribution import Distribution
from services.trainer.launch import Rendezvous, launched
from services.trainer.ranks import ALONE
from tests.services.trainer.toy_ranks import SIZE, Run, train

ROOT: Final = Path(__file__).parents[3]
TIMEOUT_S: Final = 550
TWO: Final[dict[str, Any]] = {"num_processes": 2, "device": "cpu", "precision": "f32"}
DROPOUT: Final[dict[str, Any]] = {"dropout": 0.1}
SHORT: Final[dict[str, Any]] = {"steps": 8}
MUON: Final[dict[str, Any]] = {"steps": 8, "muon": True}
ALONE_RUNS: Final[dict[str, dict[str, Any]]] = {"alone": {}, "alone by muon": {"settings": MUON}}
TWO_RUNS: Final[dict[str, dict[str, Any]]] = {
    "sharded": {"distribution": {**TWO, "keep_checkpoints": 9}},
    "copied": {"distribution": {**TWO, "shard": False}},
    "micro-batches": {"distribution": {**TWO, "micro_batch_size": 2}, "settings": SHORT},
    "micro-batches, copied": {"distribution": {**TWO, "micro_batch_size": 2, "shard": False}, "settings": SHORT},
    "activation checkpointing": {"distribution": {**TWO, "activation_checkpointing": True}, "settings": SHORT},
    "bf16": {"distribution": {**TWO, "precision": "bf16"}, "settings": SHORT},
    "muon, sharded": {"distribution": TWO, "settings": MUON},
    "muon, copied": {"distribution": {**TWO, "shard": False}, "settings": MUON},
    "dropout": {"distribution": TWO, "settings": DROPOUT},
    "full disk": {"distribution": TWO, "settings": DROPOUT, "full_disk": [1, 10]},
    "full disk, gone on": {"distribution": TWO, "settings": DROPOUT},
    "other settings": {"distribution": TWO, "digest": "other"},
}
SAME_FOLDER: Final = {"full disk, gone on": "full disk", "other settings": "sharded"}


@dataclass(frozen=True)
class Made:
    """What a run left."""

    folder: Path

    def said(self) -> list[dict[str, Any]]:
        """The error and the states left then, by rank."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("error-*.json"))]

    @property
    def losses(self) -> list[float]:
        """Of the steps since the last start, over all ranks."""
        return torch.load(self.folder / "out" / "made.pt", weights_only=True)["losses"]  # type: ignore[no-any-return]

    @property
    def weights(self) -> dict[str, Tensor]:
        return torch.load(self.folder / "out" / "made.pt", weights_only=True)["weights"]  # type: ignore[no-any-return]

    @property
    def states(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "states").iterdir())


def close(weights: dict[str, Tensor], wanted: dict[str, Tensor], bound: float) -> None:
    """Attention does not feel its keys' biases: AdamW makes steps of the rounding errors that are their gradients."""
    for key, weight in weights.items():
        felt = torch.ones_like(weight, dtype=torch.bool)
        if key.endswith("in_proj_bias"):
            felt[SIZE : 2 * SIZE] = False
        torch.testing.assert_close(weight[felt], wanted[key][felt], atol=bound, rtol=0)


def train_all(folder: Path) -> Mapping[str, Made]:
    """All runs above; "full disk" is looked at between its two."""
    made = {name: Made(folder / SAME_FOLDER.get(name, name)) for name in (*ALONE_RUNS, *TWO_RUNS)}
    torch.set_num_threads(1)
    for name, values in ALONE_RUNS.items():
        train(Run(str(made[name].folder), **values), ALONE)
    start([Run(str(made[name].folder), **values) for name, values in TWO_RUNS.items()], check=True)
    return made


def start(
    runs: list[Run], check: bool = False, rendezvous: Rendezvous | None = None, node_rank: int = 0
) -> subprocess.CompletedProcess[str]:
    """The runs, in turn, by two ranks: here, or by one rank on each of two nodes."""
    command = arguments(runs, rendezvous, node_rank)
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def arguments(runs: list[Run], rendezvous: Rendezvous | None = None, node_rank: int = 0) -> list[str]:
    nodes = Distribution(num_nodes=2 if rendezvous else 1, num_processes=1 if rendezvous else 2)
    worker = ["-m", "tests.services.trainer.toy_ranks", json.dumps([asdict(run) for run in runs])]
    return launched(worker, nodes, rendezvous, node_rank)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
