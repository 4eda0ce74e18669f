"""The VAE's decoder, trained on after its encoder is fixed: sharper pictures, same latents."""

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from services.trainer.config import Recipe, VaeDecoderStage
from services.trainer.data.crowds import crowd, resized
from services.trainer.objectives.base import Objective
from services.trainer.objectives.vae import pixel_weights, read_back, weighted_l1
from triptych.models.processors import to_pixels


class VaeDecoderObjective(Objective):
    """How Stable Diffusion's published VAEs were refined: with the encoder frozen, a UNet trained on its latents (here
    side by side) stays valid."""

    name = "vae_decoder"
    needs = ("vae",)

    def __init__(self, recipe: Recipe, inputs: dict[str, Path]) -> None:
        super().__init__(recipe, inputs)
        self.vae = AutoencoderKL.from_pretrained(str(inputs["vae"])).requires_grad_(False)
        self.vae.post_quant_conv.requires_grad_(True)
        self.vae.decoder.requires_grad_(True)

    @property
    def config(self) -> VaeDecoderStage:
        return self.recipe.vae_decoder

    @property
    def module(self) -> nn.Module:
        return self.vae  # type: ignore[no-any-return]

    def backward(self, step: int) -> dict[str, Tensor]:
        pixels = self.pixels(step)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latents = self.vae.encode(pixels).latent_dist.mean
            output = self.vae.decode(latents).sample
        reconstruction = weighted_l1(output, pixels, self.config.foreground_weight)
        edges = weighted_edges(output, pixels, self.config.foreground_weight)
        loss = reconstruction + self.config.edge_weight * edges
        loss.backward()
        return {"loss": loss, "reconstruction": reconstruction, "edges": edges}

    def pixels(self, step: int) -> Tensor:
        """A batch of training pictures, (B, 3, 64, 64)."""
        rng, config = random.Random(f"vae_decoder/{self.recipe.seed}/{step}"), self.config
        crowds = [crowd(rng, "train", config.filled_cells) for _ in range(config.batch_size)]
        return to_pixels(np.stack([resized(c, rng, config.small_share).picture for c in crowds]))

    def evaluate(self) -> dict[str, float]:
        return read_back(self.vae)

    def write(self, folder: Path) -> None:
        self.vae.save_pretrained(str(folder))


def weighted_edges(output: Tensor, pixels: Tensor, foreground_weight: float) -> Tensor:
    """Mean absolute difference of the steps from each pixel to its right and to its lower neighbour, weighted as
    `weighted_l1` weighs pixels. A small cross and a small circle differ little in paint, but much in edges."""
    weights = pixel_weights(pixels, foreground_weight)
    error = output.float() - pixels
    across = weights[..., 1:] * error.diff(dim=-1).abs()
    down = weights[..., 1:, :] * error.diff(dim=-2).abs()
    return across.mean() + down.mean()
