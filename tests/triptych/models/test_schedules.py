"""Any number of steps ends in a picture; noise in training is the schedule's, whatever sampler it names."""

import re
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from tests import tiny
from triptych.models.decoders.latent_diffusion import NOISE_SCHEDULERS, LatentDiffusion

BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
OWN = {"PNDMScheduler": {"skip_prk_steps": True}, "DDIMScheduler": {"clip_sample": False}}
ONE_TOO_MANY = (61, 103, 121, 122)  # of diffusers' trailing timesteps


def diffusion(name: str, **values: Any) -> LatentDiffusion:
    made = tiny.tiny_decoder().decoder
    return LatentDiffusion(made.unet, made.vae, {"_class_name": name, **BETAS, **OWN.get(name, {}), **values})


def drawn(scheduler: Any, wanted: Tensor) -> Tensor:
    """What is drawn when the noise in every step's latents is told exactly."""
    latents = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        kept = scheduler.alphas_cumprod[int(timestep)]
        seen = scheduler.scale_model_input(latents, timestep)
        noise = (seen - kept.sqrt() * wanted) / (1 - kept).sqrt()
        latents = scheduler.step(noise, timestep, latents, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("name", NOISE_SCHEDULERS)
def test_every_number_of_steps_is_what_was_asked_for(name: str) -> None:
    decoder = diffusion(name, timestep_spacing="trailing")
    for asked in (*range(2, 20), 60, *ONE_TOO_MANY, 200):
        scheduler = decoder.denoising_schedule(asked)
        assert len(scheduler.timesteps) == asked + (name == "PNDMScheduler")
        assert scheduler.timesteps.min() >= 0
        assert not hasattr(scheduler, "sigmas") or len(scheduler.sigmas) == asked + 1


@pytest.mark.parametrize("asked", [60, *ONE_TOO_MANY])
@pytest.mark.parametrize("name", NOISE_SCHEDULERS)
def test_the_picture_is_there_at_the_end(name: str, asked: int) -> None:
    wanted = torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(1))
    scheduler = diffusion(name, timestep_spacing="trailing").denoising_schedule(asked)
    torch.testing.assert_close(
        drawn(scheduler, wanted), wanted, atol=0.2, rtol=0
    )  # some end at the faintest noise there is


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", NOISE_SCHEDULERS)
def test_noise_in_training_is_that_of_the_betas(name: str, prediction: str) -> None:
    noise, latents = torch.randn((2, 4, 4, 4, 4), generator=torch.Generator().manual_seed(2))
    timesteps = torch.tensor([10, 300, 700, 990])
    own, reference = diffusion(name, prediction_type=prediction).forward_process(), DDPMScheduler(**BETAS)
    assert own.config.prediction_type == prediction
    for found, wanted in (
        (own.add_noise(latents, noise, timesteps), reference.add_noise(latents, noise, timesteps)),
        (own.get_velocity(latents, noise, timesteps), reference.get_velocity(latents, noise, timesteps)),
    ):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("algorithm", ["sde-dpmsolver", "sde-dpmsolver++"])
def test_samplers_that_draw_noise_at_every_step_are_refused(algorithm: str) -> None:
    with pytest.raises(ValueError, match=rf"algorithm_type is '{re.escape(algorithm)}'.* the same seed"):
        diffusion("DPMSolverMultistepScheduler", algorithm_type=algorithm)
