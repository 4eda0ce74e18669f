"""Drawing is diffusers' StableDiffusionPipeline: the same embeds, latents and noise scheduler, the same picture."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from tests import tiny
from triptych.models.decoder_stage import Denoising, sample_pictures, start_denoising, step_denoisings
from triptych.models.decoders.latent_diffusion import NOISE_SCHEDULERS, LatentDiffusion

BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "PNDMScheduler": {"skip_prk_steps": True, "set_alpha_to_one": False},
    "DDIMScheduler": {"clip_sample": False, "set_alpha_to_one": False},
    "DPMSolverMultistepScheduler": {},
    "EulerDiscreteScheduler": {},
}
SEED = 11


def diffusion(scheduler: str) -> LatentDiffusion:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = tiny.tiny_decoder().decoder
    return LatentDiffusion(made.unet, made.vae, {"_class_name": scheduler, **BETAS, **SCHEDULES[scheduler]}).eval()


def conditionings(rows: int) -> tuple[Tensor, Tensor]:
    """Conditioning (B, L, C) and null conditioning (1, L, C)."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(rows, 6, 16, generator=generator), torch.randn(1, 6, 16, generator=generator)


def walk(decoder: LatentDiffusion, denoising: Denoising) -> list[Tensor]:
    """The latents after every step."""
    latents = []
    while not denoising.is_finished:
        step_denoisings(decoder, [denoising])
        latents.append(denoising.latents)
    return latents


def oracle(decoder: LatentDiffusion, num_steps: int, guidance_scale: float) -> tuple[Tensor, list[Tensor]]:
    """The pipeline's picture (1, 3, H, W) and its latents after every step."""
    pipeline = StableDiffusionPipeline(
        vae=decoder.vae,
        text_encoder=None,
        tokenizer=None,
        unet=decoder.unet,
        scheduler=decoder.noise_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    latents: list[Tensor] = []

    def keep(_pipeline: Any, _step: int, _timestep: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
        latents.append(values["latents"].clone())
        return values

    conditioning, null = conditionings(1)
    picture = pipeline(
        prompt_embeds=conditioning,
        negative_prompt_embeds=null,
        latents=torch.randn(1, *decoder.latent_shape, generator=torch.Generator().manual_seed(SEED)),
        num_inference_steps=num_steps,
        guidance_scale=guidance_scale,
        output_type="pt",
        callback_on_step_end=keep,
        return_dict=False,
    )[0]
    return picture, latents


def test_every_noise_scheduler_is_compared() -> None:
    assert set(SCHEDULES) == set(NOISE_SCHEDULERS)


@pytest.mark.parametrize("guidance_scale", [1.0, 7.5], ids=["without guidance", "with guidance"])
@pytest.mark.parametrize("scheduler", SCHEDULES)
@torch.no_grad()
def test_pipeline(scheduler: str, guidance_scale: float) -> None:
    decoder = diffusion(scheduler)
    wanted_picture, wanted_latents = oracle(decoder, 12, guidance_scale)
    latents = walk(decoder, start_denoising(decoder, *conditionings(1), SEED, 12, guidance_scale))
    assert len(latents) == len(wanted_latents) == (13 if scheduler == "PNDMScheduler" else 12)
    for found, wanted in zip(latents, wanted_latents, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(decoder.decode(latents[-1]), wanted_picture, rtol=0, atol=1e-4)


@torch.no_grad()
def test_guidance_changes_the_picture() -> None:
    decoder = diffusion("DDIMScheduler")
    with_guidance, without = (walk(decoder, start_denoising(decoder, *conditionings(1), SEED, 5, g)) for g in (7.5, 1))
    assert (with_guidance[-1] - without[-1]).abs().max() > 0.01


def test_pndm_calls_the_unet_once_more() -> None:
    decoder = diffusion("PNDMScheduler")
    denoising = start_denoising(decoder, *conditionings(1), SEED, 50, 7.5)
    timesteps = denoising.noise_scheduler.timesteps.tolist()
    assert denoising.num_steps == len(timesteps) == 51
    assert timesteps == [981, 961, 961, *range(941, 0, -20)]
    assert timesteps[-1] == 1


def test_ddim_timesteps() -> None:
    denoising = start_denoising(diffusion("DDIMScheduler"), *conditionings(1), SEED, 50, 7.5)
    assert denoising.noise_scheduler.timesteps.tolist() == list(range(981, 0, -20))


@pytest.mark.parametrize("scheduler", SCHEDULES)
@torch.no_grad()
def test_a_batch_is_each_alone(scheduler: str) -> None:
    """Requests that join at different times, with steps, seeds and guidance of their own."""
    decoder = diffusion(scheduler)
    rows, null = conditionings(3)
    asked = [(21, 6, 7.5), (22, 9, 1.0), (23, 4, 2.0)]
    alone = [
        walk(decoder, start_denoising(decoder, row, null, *own))[-1]
        for row, own in zip(rows.split(1), asked, strict=True)
    ]
    waiting = [start_denoising(decoder, row, null, *own) for row, own in zip(rows.split(1), asked, strict=True)]
    every = list(waiting)
    running: list[Denoising] = []
    sizes = set()
    while waiting or running:
        if waiting:
            running.append(waiting.pop(0))
        sizes.add(len(running))
        step_denoisings(decoder, running)
        running = [denoising for denoising in running if not denoising.is_finished]
    assert sizes == {1, 2, 3}
    for denoising, wanted in zip(every, alone, strict=True):
        assert denoising.is_finished
        torch.testing.assert_close(denoising.latents, wanted, rtol=0, atol=1e-4)


@torch.no_grad()
def test_same_seed_same_picture() -> None:
    decoder = diffusion("DDIMScheduler")
    rows, null = conditionings(2)
    same, other = rows[:1].expand(3, -1, -1), [5, 5, 6]
    pictures = sample_pictures(decoder, same, null, other, 3, 2.0)
    again = sample_pictures(decoder, same, null, other, 3, 2.0)
    assert pictures.shape == (3, 16, 16, 3) and pictures.dtype == np.uint8
    assert np.array_equal(pictures, again)
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


@torch.no_grad()
def test_encode_is_the_posterior_s_mean_or_a_sample() -> None:
    decoder = diffusion("DDIMScheduler")
    pixels = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    posterior = decoder.vae.encode(pixels).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(1))
    sample = posterior.sample(torch.Generator().manual_seed(1))
    scale = decoder.vae.config.scaling_factor
    assert scale == 0.18215
    torch.testing.assert_close(decoder.encode(pixels), posterior.mean * scale)
    torch.testing.assert_close(decoder.encode(pixels, noise), sample * scale)
