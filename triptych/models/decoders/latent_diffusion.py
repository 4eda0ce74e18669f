"""Latent diffusion: UNet, VAE and noise schedule of the Stable Diffusion 1.x kind."""

import json
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

from triptych.errors import CheckpointError
from triptych.models.base import Component
from triptych.models.json_file import read_json
from triptych.models.transformers_folder import read_diffusers, write_transformers

NOISE_SCHEDULERS = {
    cls.__name__: cls for cls in (PNDMScheduler, DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler)
}


class LatentDiffusion(Component):
    """Conditioning (B, L, C) to pictures through a UNet in a VAE's latent space, as diffusers' StableDiffusionPipeline.

    Holds weights and the noise schedule's config; the state of one denoising belongs to `decoder_stage.Denoising`.
    """

    type_name = "latent_diffusion"

    def __init__(self, unet: UNet2DConditionModel, vae: AutoencoderKL, noise_schedule: dict[str, Any]) -> None:
        super().__init__()
        name = noise_schedule.get("_class_name")
        if name not in NOISE_SCHEDULERS:
            raise ValueError(f"noise scheduler {name!r}: known are {sorted(NOISE_SCHEDULERS)}")
        algorithm = str(noise_schedule.get("algorithm_type", ""))
        if algorithm.startswith("sde"):
            raise ValueError(
                f"noise scheduler's algorithm_type is {algorithm!r}, which draws noise at every step: the same seed "
                "must give the same picture, as with 'dpmsolver++'"
            )
        self.unet, self.vae, self.noise_schedule = unet, vae, noise_schedule

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture's latents."""
        size = self.unet.config.sample_size
        return (self.unet.config.in_channels, size, size)

    @property
    def image_size(self) -> int:
        """Pixels per side."""
        return int(self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1))

    def noise_scheduler(self) -> Any:
        """A fresh scheduler: its step state belongs to one request (PNDM keeps a history)."""
        return NOISE_SCHEDULERS[self.noise_schedule["_class_name"]].from_config(self.noise_schedule)

    def denoising_schedule(self, num_inference_steps: int) -> Any:
        """A fresh scheduler with its timesteps set.

        diffusers' trailing ones come from a range of floats, which for some numbers (61, 103) goes on to -1. That is no
        noise level: what has been drawn would be lost there.
        """
        scheduler = self.noise_scheduler()
        scheduler.set_timesteps(num_inference_steps)
        num_steps = int((scheduler.timesteps >= 0).sum())
        if num_steps < len(scheduler.timesteps):
            scheduler.timesteps = scheduler.timesteps[:num_steps]
            if hasattr(scheduler, "sigmas"):  # one more than steps: the last is what remains
                scheduler.sigmas = torch.cat([scheduler.sigmas[:num_steps], scheduler.sigmas[-1:]])
        return scheduler

    def forward_process(self) -> DDPMScheduler:
        """What adds noise in training: the schedule's own, whatever sampler it names. Samplers number noise levels as
        they go through them, and some scale pictures by themselves."""
        return DDPMScheduler.from_config(self.noise_schedule)

    def forward(self, latents_BCHW: Tensor, timesteps_B: Tensor, conditioning_BLC: Tensor) -> Tensor:
        """Predicted noise, same shape as the latents."""
        return self.unet(latents_BCHW, timesteps_B, conditioning_BLC).sample  # type: ignore[no-any-return]

    def encode(self, pixels_BCHW: Tensor, noise: Tensor | None = None) -> Tensor:
        """Pixels in [-1, 1] to scaled latents: the posterior's mean, or a sample when `noise` is given."""
        posterior = self.vae.encode(pixels_BCHW).latent_dist
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        return latents * self.vae.config.scaling_factor  # type: ignore[no-any-return]

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Scaled latents to pixels in [0, 1]."""
        return decode_latents(self.vae, latents_BCHW)

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32) -> Self:
        schedule = read_json(folder / "scheduler" / "scheduler_config.json")
        try:
            unet = read_diffusers(UNet2DConditionModel, folder / "unet", dtype)
            return cls(unet, read_diffusers(AutoencoderKL, folder / "vae", dtype), schedule)
        except ValueError as error:
            raise CheckpointError(f"{folder}: {error}") from error

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        write_transformers(self.unet, folder / "unet", dtype)
        write_transformers(self.vae, folder / "vae", dtype)
        self.save_schedule(folder)

    def save_schedule(self, folder: Path) -> None:
        """Writes `scheduler/`."""
        (folder / "scheduler").mkdir(exist_ok=True)
        schedule = json.dumps(self.noise_schedule, indent=2)
        (folder / "scheduler" / "scheduler_config.json").write_text(schedule + "\n")


def decode_latents(vae: AutoencoderKL, latents_BCHW: Tensor) -> Tensor:
    """Scaled latents to pixels in [0, 1]."""
    pixels = vae.decode(latents_BCHW / vae.config.scaling_factor).sample
    return (pixels / 2 + 0.5).clamp(0, 1)  # type: ignore[no-any-return]
