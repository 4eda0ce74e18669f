"""The VAE: pictures to latents and back, judged by whether the scene reader still reads its reconstructions."""

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from services.trainer.config import Recipe, VaeStage
from services.trainer.data.blocks.reader import judge
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import Split, sample_scene
from services.trainer.objectives.base import Objective
from triptych.models.processors import to_pixels, to_pictures

CHROMA_THRESHOLD = 40 / 127.5  # colours are far above it, backgrounds (white to sand) below
NUM_EVAL = 256


class VaeObjective(Objective):
    """L1 with extra weight on coloured pixels (small blocks melt without it) plus a light KL term.

    Never compiled: torch 2.13's CPU compiler loses this model's encoder gradients (they come out as zero)."""

    name = "vae"

    def __init__(self, recipe: Recipe, inputs: dict[str, Path]) -> None:
        super().__init__(recipe, inputs)
        config = recipe.vae
        levels = len(config.block_out_channels)
        torch.manual_seed(recipe.seed)
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.block_out_channels,
            latent_channels=config.latent_channels,
            layers_per_block=1,
            norm_num_groups=8,
            sample_size=64,
        ).to(memory_format=torch.channels_last)
        # Posteriors start narrow: at unit variance the noise drowns the first signal and the latents never take any on.
        nn.init.constant_(self.vae.quant_conv.bias[config.latent_channels :], -6.0)

    @property
    def config(self) -> VaeStage:
        return self.recipe.vae

    @property
    def module(self) -> nn.Module:
        return self.vae

    def backward(self, step: int) -> dict[str, Tensor]:
        pixels = self._pixels("train", range(self.config.batch_size), f"vae/{self.recipe.seed}/{step}")
        noise = torch.randn(self._latent_shape(), generator=torch.Generator().manual_seed(step))
        with torch.autocast("cpu", torch.bfloat16):
            figures = self._loss(pixels.to(memory_format=torch.channels_last), noise)
        figures["loss"].backward()
        return figures

    def _latent_shape(self) -> tuple[int, int, int, int]:
        size = 64 // 2 ** (len(self.config.block_out_channels) - 1)
        return (self.config.batch_size, self.config.latent_channels, size, size)

    def _loss(self, pixels: Tensor, noise: Tensor) -> dict[str, Tensor]:
        posterior = self.vae.encode(pixels).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        output = self.vae.decode(mean + torch.exp(0.5 * logvar) * noise).sample
        chroma = pixels.amax(1, keepdim=True) - pixels.amin(1, keepdim=True)
        weight = 1 + (self.config.foreground_weight - 1) * (chroma > CHROMA_THRESHOLD)
        reconstruction = (weight * (output.float() - pixels).abs()).mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / pixels.shape[0]
        return {"loss": reconstruction + self.config.kl_weight * kl, "reconstruction": reconstruction, "kl": kl}

    def _pixels(self, split: Split, indices: range, seed: str) -> Tensor:
        rng = random.Random(seed)
        return to_pixels(np.stack([render(sample_scene(rng, split), rng.getrandbits(31)) for _ in indices]))

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        rng = random.Random("vae/evaluate")
        scenes = [sample_scene(rng, "held_out") for _ in range(NUM_EVAL)]
        pixels = to_pixels(np.stack([render(scene, index) for index, scene in enumerate(scenes)]))
        latents = self.vae.encode(pixels).latent_dist.mean
        pictures = to_pictures(self.vae.decode(latents).sample / 2 + 0.5)
        verdicts = [judge(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)]
        return {
            "scenes_read": sum(v.exact and v.size_right == v.num_blocks for v in verdicts) / NUM_EVAL,
            "backgrounds_read": sum(v.background_right for v in verdicts) / NUM_EVAL,
            "latent_std": latents.std().item(),
        }

    @torch.no_grad()
    def write(self, folder: Path) -> None:
        """The diffusers folder, its scaling factor set so that latents have unit variance."""
        latents = self.vae.encode(self._pixels("train", range(512), "vae/scale")).latent_dist.mean
        self.vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
        self.vae.save_pretrained(str(folder))
