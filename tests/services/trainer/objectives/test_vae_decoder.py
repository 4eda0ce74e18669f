"""More training for the VAE's decoder: on shapes above all, and without moving the latents a UNet learns meanwhile."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import sample_scene
from services.trainer.objectives.vae import weighted_l1
from services.trainer.objectives.vae_decoder import weighted_edges
from tests.services.trainer.tiny_recipe import objective, tiny_recipe
from triptych.models.processors import to_pixels


def test_the_decoder_stage_keeps_the_latents(upstream: Path, tmp_path: Path) -> None:
    own = objective(tiny_recipe(), "vae_decoder", upstream)
    trained = {key.split(".")[0] for key, p in own.vae.named_parameters() if p.requires_grad}
    assert trained == {"decoder", "post_quant_conv"}
    optimizer = torch.optim.SGD([p for p in own.module.parameters() if p.requires_grad], lr=0.1)
    own.backward(0)
    optimizer.step()
    own.write(tmp_path)
    before, after = (AutoencoderKL.from_pretrained(str(path)) for path in (upstream / "vae", tmp_path))
    assert after.config.scaling_factor == before.config.scaling_factor
    rng = random.Random(0)
    pixels = to_pixels(np.stack([render(sample_scene(rng, "train"), seed) for seed in range(2)]))
    with torch.no_grad():
        latents = before.encode(pixels).latent_dist.mean
        assert torch.equal(after.encode(pixels).latent_dist.mean, latents)
        assert not torch.equal(after.decode(latents).sample, before.decode(latents).sample)


def test_edges_weigh_by_step_and_by_surroundings() -> None:
    pixels = torch.zeros(1, 3, 4, 20)
    pixels[0, :, 0, 10] = torch.tensor([1.0, -1.0, -1.0])  # red; all others are grey
    even = pixels + 0.3
    assert weighted_edges(even, pixels, 5.0).item() == pytest.approx(0, abs=1e-6)
    output = pixels.clone()
    output[..., 3, 0] += 1  # a corner far from the red pixel: one step across, one down
    assert weighted_edges(output, pixels, 5.0).item() == pytest.approx(1 / (4 * 19) + 1 / (3 * 20))
    output = pixels.clone()
    output[..., 2, 10] += 1  # near it, inside: two steps each way, five times
    assert weighted_edges(output, pixels, 5.0).item() == pytest.approx(5 * 2 * (1 / (4 * 19) + 1 / (3 * 20)))


def test_batches_are_mostly_small_blocks(upstream: Path) -> None:
    share = {}
    for small in (0.0, 1.0):
        own = objective(tiny_recipe(vae_decoder={"batch_size": 16, "small_share": small}), "vae_decoder", upstream)
        pixels = own.pixels(3)
        assert torch.equal(pixels, own.pixels(3))
        share[small] = (pixels.amax(1) - pixels.amin(1) > 0.5).float().mean().item()
    assert share[1.0] < 0.6 * share[0.0]


def test_loss(upstream: Path) -> None:
    own = objective(tiny_recipe(vae_decoder={"edge_weight": 2.0}), "vae_decoder", upstream)
    figures = own.backward(0)
    torch.testing.assert_close(figures["loss"], figures["reconstruction"] + 2 * figures["edges"])
    with torch.no_grad():
        output = own.vae.decode(own.vae.encode(own.pixels(0)).latent_dist.mean).sample
    wanted = weighted_l1(output, own.pixels(0), own.config.foreground_weight)
    torch.testing.assert_close(figures["reconstruction"], wanted, rtol=0.02, atol=0)  # mixed precision
