"""The VAE's loss term by term, and the scale its latents are handed on with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from services.trainer.objectives.vae import VaeObjective, read_back, weighted_l1
from tests.services.trainer.tiny_recipe import objective, tiny_recipe


def made(upstream: Path, **changed: Any) -> VaeObjective:
    own: VaeObjective = objective(tiny_recipe(vae=changed), "vae", upstream)
    return own


def test_coloured_pixels_weigh_more() -> None:
    pixels = torch.zeros(1, 3, 1, 2)
    pixels[0, :, 0, 0] = torch.tensor([1.0, -1.0, -1.0])  # red; the other one is grey
    output = pixels + torch.tensor([0.1, 0.2]).reshape(1, 1, 1, 2)
    assert weighted_l1(output, pixels, 5.0).item() == pytest.approx((5 * 0.1 + 0.2) / 2)
    assert weighted_l1(output, pixels, 1.0).item() == pytest.approx(0.15)


@torch.no_grad()
def test_loss(upstream: Path) -> None:
    own = made(upstream, kl_weight=0.01)
    pixels = own.pixels("train", range(2), "x")
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    figures = own._loss(pixels, noise)
    posterior = own.vae.encode(pixels).latent_dist
    output = own.vae.decode(posterior.mean + posterior.std * noise).sample
    torch.testing.assert_close(figures["reconstruction"], weighted_l1(output, pixels, 5.0))
    torch.testing.assert_close(figures["kl"], posterior.kl().mean())
    torch.testing.assert_close(figures["loss"], figures["reconstruction"] + 0.01 * figures["kl"])


@torch.no_grad()
def test_posteriors_start_narrow(upstream: Path) -> None:
    own = made(upstream)
    assert own.vae.encode(own.pixels("train", range(4), "x")).latent_dist.std.max() < 0.2


def test_pixels_are_the_vae_s(upstream: Path) -> None:
    pixels = made(upstream).pixels("train", range(3), "x")
    assert pixels.shape == (3, 3, 64, 64)
    assert -1 <= pixels.min() < -0.5 < 0.5 < pixels.max() <= 1


@torch.no_grad()
def test_what_it_writes_loads_again_with_unit_variance(upstream: Path, tmp_path: Path) -> None:
    own = made(upstream)
    own.write(tmp_path)
    vae = AutoencoderKL.from_pretrained(str(tmp_path))
    assert all(torch.equal(value, own.vae.state_dict()[key]) for key, value in vae.state_dict().items())
    latents = vae.encode(own.pixels("train", range(512), "vae/scale")).latent_dist.mean * vae.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, abs=1e-3)


def test_figures(upstream: Path) -> None:
    figures = read_back(made(upstream).vae)
    assert figures.keys() == {"scenes_read", "backgrounds_read", "latent_std"}
    assert figures["scenes_read"] < 0.5  # random weights show nothing
