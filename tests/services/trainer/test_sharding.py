"""Two ranks, by gloo, do what one process does, in every way a module can be spread."""

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from services.trainer.distribution import Distribution
from services.trainer.objectives.base import Objective
from services.trainer.ranks import ALONE, Ranks, joined
from services.trainer.sharding import whole_weights
from services.trainer.train import StageRun
from tests.services.trainer.ranked_runs import SHORT, Made, close
from tests.services.trainer.toy import Toy
from tests.services.trainer.toy_ranks import STEPS, ToyRanks
from triptych.errors import InvalidArgument

LIKE_ONE = {
    "sharded": "alone",
    "copied": "alone",
    "micro-batches": "alone",
    "micro-batches, copied": "alone",
    "activation checkpointing": "alone",
    "muon, copied": "alone by muon",
}
ONE = Distribution(device="cpu", precision="f32")


@pytest.mark.parametrize("name", LIKE_ONE)
def test_losses_and_weights_are_those_of_one_process(name: str, made: Mapping[str, Made]) -> None:
    one, two = made[LIKE_ONE[name]], made[name]
    assert two.losses == pytest.approx(one.losses[: len(two.losses)], abs=1e-4)
    assert len(two.losses) == (STEPS if name in ("sharded", "copied") else SHORT["steps"])
    assert two.weights.keys() == one.weights.keys()
    if len(two.losses) == len(one.losses):
        close(two.weights, one.weights, 1e-3)


def test_the_toy_learns(made: Mapping[str, Made]) -> None:
    losses = made["alone"].losses
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_computing_in_bf16(made: Mapping[str, Made]) -> None:
    one, two = made["alone"].losses[: SHORT["steps"]], made["bf16"].losses
    assert two == pytest.approx(one, rel=0.05)
    assert two != pytest.approx(one, abs=1e-4)
    weights = made["bf16"].weights
    assert weights["embed.weight"].dtype == torch.float32
    assert not torch.equal(weights["embed.weight"], weights["embed.weight"].bfloat16().float())


def test_frozen_weights_stay(made: Mapping[str, Made]) -> None:
    start = ToyRanks().model.state_dict()
    for name in ("sharded", "copied"):
        assert torch.equal(made[name].weights["frozen.weight"], start["frozen.weight"])
        assert not torch.equal(made[name].weights["embed.weight"], start["embed.weight"])


def test_sharded_muon_is_refused_on_every_rank(made: Mapping[str, Made]) -> None:
    wanted = "InvalidArgument: toy: Muon needs whole matrices: shard = false, or one rank"
    assert [said["error"] for said in made["muon, sharded"].said()] == [wanted, wanted]


@pytest.mark.parametrize("objective", [Toy(distribution=ONE), Toy()], ids=["settings", "ranks"])
def test_an_objective_for_one_process_is_refused(objective: Objective, tmp_path: object) -> None:
    if objective.config.distribution is None:
        objective.ranks = Ranks(0, 2)
    with pytest.raises(InvalidArgument, match="toy trains in one process only"):
        StageRun(objective, tmp_path, "d")  # type: ignore[arg-type]


def test_one_rank_keeps_no_gradients_of_frozen_weights_and_writes_whole_ones(tmp_path: object) -> None:
    with joined(ONE) as ranks:
        toy = ToyRanks(ranks, distribution=ONE)
        run = StageRun(toy, tmp_path, "d")  # type: ignore[arg-type]
        run.advance()
        frozen = {id(p) for p in toy.model.frozen.parameters()}
        assert all(p.grad is None for p in toy.model.frozen.parameters())
        assert not frozen & {id(p) for optimizer in run.optimizers for p in optimizer.state}
        toy.model.write.weight.data.fill_(2.0)
        with whole_weights(toy.model, ranks):
            kept = toy.model.state_dict()
        assert {type(value) for value in kept.values()} == {torch.Tensor}
        assert torch.equal(kept["write.weight"], torch.full((7, 12), 2.0))
        assert type(toy.model.write.weight).__name__ == "DTensor"


def test_weights_that_are_tied_stay_tied() -> None:
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    with whole_weights(module, ALONE):
        assert module[1].weight is module[0].weight
