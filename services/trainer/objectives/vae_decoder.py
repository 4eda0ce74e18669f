"""The VAE's decoder, trained on after its encoder is fixed: sharper pictures, same latents."""

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from services.trainer.config import Recipe, VaeDecoderStage
from services.trainer.objectives.base import Objective
from services.trainer.objectives.vae import crowded_pixels, read_back, weighted_l1


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
        rng = random.Random(f"vae_decoder/{self.recipe.seed}/{step}")
        pixels = crowded_pixels(rng, self.config)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latents = self.vae.encode(pixels).latent_dist.mean
            loss = weighted_l1(self.vae.decode(latents).sample, pixels, self.config.foreground_weight)
        loss.backward()
        return {"loss": loss}

    def evaluate(self) -> dict[str, float]:
        return read_back(self.vae)

    def write(self, folder: Path) -> None:
        self.vae.save_pretrained(str(folder))
