"""The UNet's loss on what LLM and head hand over, computed anew with diffusers' own noise schedule."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch.nn.functional import mse_loss

from services.trainer.objectives.handover import NUM_AT_ONCE, HandoverObjective
from services.trainer.objectives.multimodal import MultimodalObjective
from tests.services.trainer.tiny_recipe import GROUPS, objective, tiny_recipe
from triptych.errors import InvalidArgument


def made(upstream: Path, **changed: Any) -> HandoverObjective:
    torch.set_num_threads(1)
    own: HandoverObjective = objective(tiny_recipe(handover=changed), "handover", upstream)
    return own


def test_only_the_unet_learns(upstream: Path) -> None:
    own = made(upstream)
    own.backward(0)
    unet = {id(parameter) for parameter in own.module.parameters()}
    assert all(parameter.grad is not None for parameter in own.module.parameters())
    whole = (own.whole.encoder_stage, own.whole.llm_stage, own.whole.decoder_stage)
    others = [p for stage in whole for p in stage.parameters() if id(p) not in unet]
    assert others
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in others)


def test_the_loss_is_diffusers(upstream: Path) -> None:
    own = made(upstream, condition_dropout=0.0, batch_size=3)
    rng = random.Random("handover/0/5")
    generator = torch.Generator().manual_seed(rng.getrandbits(31))
    chosen = [rng.choice(own.pool()) for _ in range(3)]
    latents = torch.stack([latent for _, latent in chosen])
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = (torch.rand(3, generator=generator) * 1000).long()
    scheduler = DDPMScheduler.from_config(own.whole.noise_scheduler.config)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    given = torch.stack([conditioning for conditioning, _ in chosen])
    predicted = own.stage.decoder.unet(noisy, timesteps, given).sample
    wanted = mse_loss(predicted, scheduler.get_velocity(latents, noise, timesteps))
    assert own.backward(5)["loss"].item() == pytest.approx(wanted.item(), rel=2e-2)  # ours computes in bfloat16


def test_dropped_conditions_are_the_null_one(upstream: Path) -> None:
    """Where all are dropped, what was handed over makes no difference."""
    own = made(upstream, condition_dropout=0.999999)
    before = own.backward(0)["loss"].item()
    own._pool = [(conditioning + 1, latents) for conditioning, latents in own.pool()]
    assert own.backward(0)["loss"].item() == before


def test_the_pool_is_what_the_single_stage_hands_over(upstream: Path) -> None:
    own = made(upstream, pool_size=NUM_AT_ONCE)
    rng = random.Random("handover/pool/0")
    assert {group.kind for group in own.groups} <= {"draw", "draw_crowd", "edit", "edit_crowd"}
    (group,) = rng.choices(own.groups, [group.batch_size for group in own.groups])
    batch = own.whole.batch(group.model_copy(update={"batch_size": NUM_AT_ONCE}), rng, "train")
    with torch.no_grad():
        wanted = own.whole.condition(batch)
    given = torch.stack([conditioning for conditioning, _ in own.pool()])
    torch.testing.assert_close(given, wanted, atol=0.05, rtol=0.05)  # ours computes in bfloat16


def test_figures_are_those_of_the_single_stage(upstream: Path) -> None:
    own = made(upstream)
    single: MultimodalObjective = objective(tiny_recipe(), "multimodal", upstream)
    assert set(own.evaluate()) == set(single.drawings())


def test_what_it_writes_is_a_whole_model(upstream: Path, tmp_path: Path) -> None:
    own = made(upstream)
    with torch.no_grad():
        next(own.module.parameters()).add_(1)
    own.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"encoder", "llm", "decoder"}
    again = type(own.whole)(own.recipe, {"multimodal": tmp_path})
    assert all(map(torch.equal, again.decoder_stage.decoder.unet.parameters(), own.module.parameters()))


def test_nothing_to_draw(upstream: Path) -> None:
    groups = [group for group in GROUPS if group["kind"] == "ask"]
    with pytest.raises(InvalidArgument, match="handover: multimodal.groups has none of draw"):
        objective(tiny_recipe(multimodal={"groups": groups}), "handover", upstream)
