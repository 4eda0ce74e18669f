"""The VAE's loss term by term, and the scale its latents are handed on with."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import sample_scene
from services.trainer.objectives.vae import MARGIN, VaeObjective, crowded_pixels, read_back, weighted_l1
from tests.services.trainer.tiny_recipe import objective, tiny_recipe
from triptych.models.processors import to_pixels


def made(upstream: Path, **changed: Any) -> VaeObjective:
    own: VaeObjective = objective(tiny_recipe(vae=changed), "vae", upstream)
    return own


def pictures(number: int) -> Tensor:
    rng = random.Random(0)
    return to_pixels(np.stack([render(sample_scene(rng, "train"), seed) for seed in range(number)]))


def test_coloured_pixels_and_their_surroundings_weigh_more() -> None:
    pixels = torch.zeros(1, 3, 1, 20)
    pixels[0, :, 0, 10] = torch.tensor([1.0, -1.0, -1.0])  # red; all others are grey
    near = 2 * MARGIN + 1
    output = pixels + 0.1
    assert weighted_l1(output, pixels, 5.0).item() == pytest.approx(0.1 * (5 * near + 20 - near) / 20)
    assert weighted_l1(output, pixels, 1.0).item() == pytest.approx(0.1)
    output = pixels.clone()
    output[..., 10 + MARGIN + 1] += 1  # just outside
    assert weighted_l1(output, pixels, 5.0).item() == pytest.approx(1 / 20)


@torch.no_grad()
def test_loss(upstream: Path) -> None:
    own = made(upstream, kl_weight=0.01)
    pixels = pictures(2)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    figures = own._loss(pixels, noise)
    posterior = own.vae.encode(pixels).latent_dist
    output = own.vae.decode(posterior.mean + posterior.std * noise).sample
    torch.testing.assert_close(figures["reconstruction"], weighted_l1(output, pixels, 5.0))
    torch.testing.assert_close(figures["kl"], posterior.kl().mean())
    torch.testing.assert_close(figures["loss"], figures["reconstruction"] + 0.01 * figures["kl"])


def test_batches_follow_seed_and_step(upstream: Path) -> None:
    own: VaeObjective = objective(tiny_recipe(seed=1), "vae", upstream)
    pixels, noise = own.batch(3)
    assert noise.shape == (2, 4, 8, 8)
    again = objective(tiny_recipe(seed=1), "vae", upstream).batch(3)
    assert torch.equal(again[0], pixels)
    assert torch.equal(again[1], noise)
    for other in (own.batch(4), objective(tiny_recipe(seed=2), "vae", upstream).batch(3)):
        assert not torch.equal(other[0], pixels)
        assert not torch.equal(other[1], noise)


@torch.no_grad()
def test_posteriors_start_narrow(upstream: Path) -> None:
    own = made(upstream)
    assert own.vae.encode(pictures(4)).latent_dist.std.max() < 0.2


def test_batches_are_in_the_vae_s_range_and_crowded() -> None:
    config = tiny_recipe(vae={"batch_size": 6}).vae
    pixels = crowded_pixels(random.Random(0), config)
    assert pixels.shape == (6, 3, 64, 64)
    assert -1 <= pixels.min() < -0.5 < 0.5 < pixels.max() <= 1
    assert torch.equal(pixels, crowded_pixels(random.Random(0), config))
    chroma = [(p.amax(1) - p.amin(1) > 0.5).float().mean() for p in (pixels, pictures(6))]
    assert chroma[0] > chroma[1]


@torch.no_grad()
def test_what_it_writes_loads_again_with_unit_variance(upstream: Path, tmp_path: Path) -> None:
    own = made(upstream)
    own.write(tmp_path)
    vae = AutoencoderKL.from_pretrained(str(tmp_path))
    assert all(torch.equal(value, own.vae.state_dict()[key]) for key, value in vae.state_dict().items())
    latents = vae.encode(pictures(64)).latent_dist.mean * vae.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, abs=0.1)


def test_figures(upstream: Path) -> None:
    figures = read_back(made(upstream).vae)
    assert figures.keys() == {"scenes_read", "backgrounds_read", "latent_std"}
    assert figures["scenes_read"] < 0.5  # random weights show nothing
