"""Everything behind DecoderService: generation head and decoder, and the state of each picture under way."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from triptych.errors import CheckpointError
from triptych.models import DECODERS, HEADS
from triptych.models.base import GenerationHead, read_class, read_weights
from triptych.models.decoders.latent_diffusion import LatentDiffusion
from triptych.models.processors import to_pictures


@dataclass
class Denoising:
    """One picture under way: its latents, its place in the schedule, its scheduler's own history."""

    latents: Tensor  # (1, C, H, W)
    conditioning: Tensor  # (1, L, C)
    null_conditioning: Tensor  # (1, L, C)
    guidance_scale: float
    noise_scheduler: Any
    step: int = 0

    @property
    def num_steps(self) -> int:
        """UNet evaluations in all; PNDM has one more than the inference steps asked for."""
        return len(self.noise_scheduler.timesteps)

    @property
    def is_finished(self) -> bool:
        return self.step == self.num_steps


def start_denoising(
    decoder: LatentDiffusion,
    conditioning: Tensor,
    null_conditioning: Tensor,
    seed: int,
    num_inference_steps: int,
    guidance_scale: float,
) -> Denoising:
    """Noise from the seed alone, drawn on the CPU: the same picture on every device and in every batch."""
    scheduler = decoder.denoising_schedule(num_inference_steps)
    noise = torch.randn((1, *decoder.latent_shape), generator=torch.Generator().manual_seed(seed))
    latents = noise.to(conditioning) * scheduler.init_noise_sigma
    return Denoising(latents, conditioning, null_conditioning, guidance_scale, scheduler)


def step_denoisings(decoder: LatentDiffusion, denoisings: list[Denoising]) -> None:
    """One step of each, in one UNet pass: they may stand at different steps of different schedules.

    Guidance as diffusers' StableDiffusionPipeline: unconditional rows first, none for a scale of at most 1.
    """
    inputs: list[Tensor] = []
    timesteps: list[Tensor] = []
    conditions: list[Tensor] = []
    for d in denoisings:
        timestep = d.noise_scheduler.timesteps[d.step]
        scaled = d.noise_scheduler.scale_model_input(d.latents, timestep)
        guided = d.guidance_scale > 1
        inputs += [scaled, scaled] if guided else [scaled]
        timesteps += [timestep, timestep] if guided else [timestep]
        conditions += [d.null_conditioning, d.conditioning] if guided else [d.conditioning]
    stacked = torch.stack(timesteps).to(inputs[0].device)
    predicted = list(decoder(torch.cat(inputs), stacked, torch.cat(conditions)).split(1))
    for d in denoisings:
        noise = predicted.pop(0)
        if d.guidance_scale > 1:
            noise = noise + d.guidance_scale * (predicted.pop(0) - noise)
        timestep = d.noise_scheduler.timesteps[d.step]
        d.latents = d.noise_scheduler.step(noise, timestep, d.latents, return_dict=False)[0]
        d.step += 1


def sample_pictures(
    decoder: LatentDiffusion,
    conditioning_BLC: Tensor,
    null_conditioning: Tensor,
    seeds: list[int],
    num_inference_steps: int,
    guidance_scale: float,
) -> NDArray[np.uint8]:
    """Pictures (B, H, W, 3), one per row of conditioning and seed."""
    denoisings = [
        start_denoising(decoder, row, null_conditioning, seed, num_inference_steps, guidance_scale)
        for row, seed in zip(conditioning_BLC.split(1), seeds, strict=True)
    ]
    while not denoisings[0].is_finished:
        step_denoisings(decoder, denoisings)
    return to_pictures(decoder.decode(torch.cat([d.latents for d in denoisings])))


class DecoderStage(nn.Module):
    """Head and decoder of one checkpoint folder, with the null conditioning guidance starts from."""

    null_conditioning: Tensor

    def __init__(self, head: GenerationHead, decoder: LatentDiffusion, null_conditioning: Tensor) -> None:
        super().__init__()
        self.head: GenerationHead = head
        self.decoder: LatentDiffusion = decoder
        self.register_buffer("null_conditioning", null_conditioning)

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32) -> Self:
        """UNet and VAE as `dtype`. Raises CheckpointError naming what is missing or wrong."""
        config, null = folder / "config.json", folder / "head" / "null_conditioning.safetensors"
        head = read_class(config, "head", HEADS).load(folder / "head")
        decoder = read_class(config, "decoder", DECODERS).load(folder, dtype)
        weights = read_weights(null)
        if "null_conditioning" not in weights:
            raise CheckpointError(f"{null}: no 'null_conditioning'")
        return cls(head, decoder, weights["null_conditioning"]).eval().requires_grad_(False)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes what `load` reads."""
        self.decoder.save(folder, dtype)
        self.save_around_decoder(folder, dtype)

    def save_around_decoder(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Head, null conditioning and config; the decoder's own files are the caller's."""
        self.head.save(folder / "head", dtype)
        null = {"null_conditioning": self.null_conditioning.to(dtype).contiguous()}
        save_file(null, folder / "head" / "null_conditioning.safetensors")
        config = {"head": self.head.type_name, "decoder": self.decoder.type_name}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def condition(self, hidden_BKD: Tensor, embeddings_BKD: Tensor) -> Tensor:
        """Hidden states and embeddings of the `[IMG]` tokens to conditioning (B, L, C)."""
        return self.head(hidden_BKD, embeddings_BKD)  # type: ignore[no-any-return]

    def start(self, conditioning: Tensor, seed: int, num_inference_steps: int, guidance_scale: float) -> Denoising:
        """A picture about to be denoised; `conditioning` is (1, L, C)."""
        null = self.null_conditioning.to(conditioning)
        return start_denoising(self.decoder, conditioning, null, seed, num_inference_steps, guidance_scale)

    def step(self, denoisings: list[Denoising]) -> None:
        """One denoising step of each, in one pass."""
        step_denoisings(self.decoder, denoisings)

    def picture(self, denoising: Denoising) -> NDArray[np.uint8]:
        """The picture as it stands, (H, W, 3): the result when finished, a preview before."""
        return to_pictures(self.decoder.decode(denoising.latents))[0]  # type: ignore[no-any-return]
