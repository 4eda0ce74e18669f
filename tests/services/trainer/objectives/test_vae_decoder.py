"""More training for the VAE's decoder must not move the latents that a UNet learns meanwhile."""

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import sample_scene
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
