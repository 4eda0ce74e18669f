"""The UNet's loss against diffusers' DDPM, its captions, and the null conditioning it hands on."""

from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch.nn.functional import mse_loss
from transformers import CLIPTextModel

from services.trainer.objectives.diffusion import DiffusionObjective, caption_ids
from tests.services.trainer.tiny_recipe import objective, tiny_recipe
from triptych.models.decoders.latent_diffusion import LatentDiffusion


def made(upstream: Path, **changed: float) -> DiffusionObjective:
    own: DiffusionObjective = objective(tiny_recipe(unet=changed), "unet", upstream)
    return own


@torch.no_grad()
def test_noise_is_added_as_in_ddpm(upstream: Path) -> None:
    own = made(upstream)
    ddpm = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True)
    latents, noise = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 1, 500, 999])
    noisy = own.noise_scheduler.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(noisy, ddpm.add_noise(latents, noise, timesteps))
    ids = own.text_ids(["a red cube", "", "a ball", "two"])
    conditioning = own.text(input_ids=ids).last_hidden_state
    wanted = mse_loss(own.decoder.unet(noisy, timesteps, conditioning).sample, noise)
    torch.testing.assert_close(own._loss(ids, noisy, timesteps, noise), wanted)


def test_captions(upstream: Path) -> None:
    codec = made(upstream).codec
    bos, eos = codec.special_id("<s>"), codec.special_id("</s>")
    red = codec.encode(" red")
    assert caption_ids(codec, ["red", ""], 8).tolist() == [
        [bos, *red, *[eos] * (7 - len(red))],
        [bos, *[eos] * 7],
    ]
    cut = caption_ids(codec, ["red " * 20], 8)[0].tolist()
    assert cut == [bos, *codec.encode(" " + "red " * 20)[:6], eos]


def test_dropped_captions(upstream: Path) -> None:
    """With dropout the null conditioning is trained: at 0.99 nearly every caption is empty."""
    seen = []
    for dropout in (0.0, 0.99):
        own = made(upstream, condition_dropout=dropout)
        kept: list[list[str]] = []
        plain = own.text_ids

        def remember(captions: list[str], kept: list[list[str]] = kept, plain: object = plain) -> torch.Tensor:
            kept.append(captions)
            return plain(captions)  # type: ignore[operator, no-any-return]

        own.text_ids = remember  # type: ignore[method-assign]
        for step in range(3):
            own.backward(step)
        seen.append(sum(not caption for captions in kept for caption in captions))
    assert seen[0] == 0
    assert seen[1] >= 10


@torch.no_grad()
def test_latents_are_the_posterior_s_mean_scaled(upstream: Path) -> None:
    own = made(upstream)
    pool = own.pool()
    assert len(pool) == 32
    assert own.pool() is pool
    latents = torch.stack([latent for _, latent in pool])
    assert latents.shape == (32, *own.decoder.latent_shape)
    assert 0.5 < latents.std() < 2


@torch.no_grad()
def test_what_it_writes_loads_again(upstream: Path, tmp_path: Path) -> None:
    own = made(upstream)
    own.write(tmp_path)
    decoder = LatentDiffusion.load(tmp_path)
    wanted = own.decoder.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in decoder.state_dict().items())
    assert decoder.noise_schedule == own.decoder.noise_schedule
    text = CLIPTextModel.from_pretrained(str(tmp_path / "text"))
    null = text(input_ids=own.text_ids([""])).last_hidden_state
    assert null.shape == (1, 8, 16)
    np.testing.assert_allclose(np.load(tmp_path / "null_conditioning.npy"), null.numpy(), atol=1e-6)
