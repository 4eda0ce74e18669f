"""What every objective keeps: pure batches, gradients where it says and nowhere else, and a loss that falls."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from services.trainer.gate import FIGURES
from services.trainer.objectives.base import Objective
from services.trainer.stages import OBJECTIVES
from services.trainer.train import StageRun
from tests.services.trainer.tiny_recipe import objective, tiny_recipe

# Parts that must stay as they are, and trained parameters that rightly take no part.
FROZEN: dict[str, tuple[str, ...]] = {
    "vae": (),
    "vae_decoder": ("vae.encoder", "vae.quant_conv"),
    "encoder": (),
    "llm": (),
    "unet": ("decoder.vae",),
    "understanding": (),
    "multimodal": ("encoder_stage.encoder", "decoder_stage.decoder.unet", "decoder_stage.decoder.vae", "text"),
    "handover": ("whole.encoder_stage", "whole.llm_stage", "stage.head", "stage.decoder.vae"),
}
# The penultimate layer's features: neither SigLIP's last block nor what follows it.
IDLE = {"understanding": ("encoder.vision.encoder.layers.1.", "encoder.vision.post_layernorm.", "encoder.vision.head.")}


def made(stage: str, upstream: Path, **changed: Any) -> Any:
    torch.set_num_threads(1)
    return objective(tiny_recipe(**changed), stage, upstream)


def part(of: Any, path: str) -> nn.Module:
    for name in path.split("."):
        of = getattr(of, name)
    assert isinstance(of, nn.Module)
    return of


def copies(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def test_the_table_is_whole() -> None:
    assert set(FROZEN) == set(OBJECTIVES)


@pytest.mark.parametrize("stage", OBJECTIVES)
def test_same_seed_same_losses(stage: str, upstream: Path, tmp_path: Path) -> None:
    runs: list[list[dict[str, float]]] = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(runs))  # whatever else the process has drawn
        own = made(stage, upstream, seed=seed)
        run = StageRun(own, tmp_path, "d")
        runs.append([{key: float(value.detach()) for key, value in run.advance().items()} for _ in range(2)])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("stage", OBJECTIVES)
def test_a_step_does_not_depend_on_those_before(stage: str, upstream: Path) -> None:
    first, second = made(stage, upstream), made(stage, upstream)
    for step in (0, 1):
        first.backward(step)
    assert torch.equal(first.backward(2)["loss"], second.backward(2)["loss"])


@pytest.mark.parametrize("stage", OBJECTIVES)
def test_gradients(stage: str, upstream: Path) -> None:
    own: Objective = made(stage, upstream)
    own.module.train()
    figures = own.backward(0)
    assert figures["loss"].isfinite()
    trained = {key: p for key, p in own.module.named_parameters() if p.requires_grad}
    without = {key for key, p in trained.items() if p.grad is None or not p.grad.any()}
    idle = IDLE.get(stage, ())
    assert without == {key for key in trained if idle and key.startswith(idle)}
    grouped = [p for group in own.parameter_groups() for p in group["params"]]  # type: ignore[attr-defined]
    assert {id(p) for p in grouped} == {id(p) for p in trained.values()}
    assert len(grouped) == len(trained)


@pytest.mark.parametrize("stage", OBJECTIVES)
def test_frozen_parts_stay(stage: str, upstream: Path, tmp_path: Path) -> None:
    own = made(stage, upstream)
    before = {path: copies(part(own, path)) for path in FROZEN[stage]}
    start = copies(own.module)
    run = StageRun(own, tmp_path, "d")
    for _ in range(2):
        run.advance()
    for path, state in before.items():
        module = part(own, path)
        assert not any(p.requires_grad or p.grad is not None for p in module.parameters()), path
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items()), path
    assert any(not torch.equal(value, start[key]) for key, value in own.module.state_dict().items())


@pytest.mark.parametrize("stage", OBJECTIVES)
def test_the_loss_of_a_batch_falls(stage: str, upstream: Path) -> None:
    own = made(stage, upstream)
    optimizer = torch.optim.AdamW([p for p in own.module.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        losses.append(float(own.backward(0)["loss"].detach()))
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("stage", OBJECTIVES)
def test_evaluation(stage: str, upstream: Path) -> None:
    own = made(stage, upstream)
    own.module.eval()
    figures = own.evaluate()
    assert figures == own.evaluate()
    assert set(figures) == set(FIGURES[stage])  # what gates are checked against before work
    assert all(0 <= value <= 1 for key, value in figures.items() if key != "latent_std")
    assert all(p.grad is None for p in own.module.parameters())
