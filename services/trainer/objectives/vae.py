"""The VAE: pictures to latents and back, judged by whether the scene reader still reads its reconstructions."""

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from services.trainer.config import Recipe, VaeStage
from services.trainer.data.blocks.reader import judge
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import sample_scene
from services.trainer.data.crowds import crowd
from services.trainer.objectives.base import Objective
from triptych.models.processors import to_pictures, to_pixels

CHROMA_THRESHOLD = 40 / 127.5  # colours are far above it, backgrounds (white to sand) below
MARGIN = 3  # pixels around a block that count as much as the block
NUM_EVAL = 256


class VaeObjective(Objective):
    """L1 with extra weight on and around blocks (small ones melt without it), on crowded pictures, and a light KL term.

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
        )
        # Posteriors start narrow: at unit variance the noise drowns the first signal and the latents never take any on.
        nn.init.constant_(self.vae.quant_conv.bias[config.latent_channels :], -6.0)

    @property
    def config(self) -> VaeStage:
        return self.recipe.vae

    @property
    def module(self) -> nn.Module:
        return self.vae  # type: ignore[no-any-return]

    def backward(self, step: int) -> dict[str, Tensor]:
        pixels, noise = self.batch(step)
        with torch.autocast("cpu", torch.bfloat16):
            figures = self._loss(pixels, noise)
        figures["loss"].backward()
        return figures

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, 64, 64), and the noise (B, C, H, W) their latents are drawn with."""
        rng = random.Random(f"vae/{self.recipe.seed}/{step}")
        pixels = crowded_pixels(rng, self.config)
        generator = torch.Generator().manual_seed(rng.getrandbits(31))  # after the pictures: they stay what they were
        return pixels, torch.randn(self._latent_shape(), generator=generator)

    def _latent_shape(self) -> tuple[int, int, int, int]:
        size = 64 // 2 ** (len(self.config.block_out_channels) - 1)
        return (self.config.batch_size, self.config.latent_channels, size, size)

    def _loss(self, pixels: Tensor, noise: Tensor) -> dict[str, Tensor]:
        posterior = self.vae.encode(pixels).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        output = self.vae.decode(mean + torch.exp(0.5 * logvar) * noise).sample
        reconstruction = weighted_l1(output, pixels, self.config.foreground_weight)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / pixels.shape[0]
        return {"loss": reconstruction + self.config.kl_weight * kl, "reconstruction": reconstruction, "kl": kl}

    def evaluate(self) -> dict[str, float]:
        return read_back(self.vae)

    @torch.no_grad()
    def write(self, folder: Path) -> None:
        """The diffusers folder, its scaling factor set so that latents have unit variance."""
        rng = random.Random("vae/scale")
        pixels = to_pixels(np.stack([render(sample_scene(rng, "train"), index) for index in range(512)]))
        latents = self.vae.encode(pixels).latent_dist.mean
        self.vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
        self.vae.save_pretrained(str(folder))


def crowded_pixels(rng: random.Random, config: VaeStage) -> Tensor:
    """A batch of training pictures, (B, 3, 64, 64)."""
    return to_pixels(np.stack([crowd(rng, "train", config.filled_cells).picture for _ in range(config.batch_size)]))


def weighted_l1(output: Tensor, pixels: Tensor, foreground_weight: float) -> Tensor:
    """Mean absolute difference; coloured pixels and their surroundings count `foreground_weight` times.

    The surroundings too: with the blocks alone, a decoder in doubt paints over the gaps between a cross's arms.
    """
    return (pixel_weights(pixels, foreground_weight) * (output.float() - pixels).abs()).mean()


def pixel_weights(pixels: Tensor, foreground_weight: float) -> Tensor:
    """(B, 1, H, W): `foreground_weight` on coloured pixels and around them, 1 elsewhere."""
    chroma = pixels.amax(1, keepdim=True) - pixels.amin(1, keepdim=True)
    near = max_pool2d((chroma > CHROMA_THRESHOLD).float(), 2 * MARGIN + 1, stride=1, padding=MARGIN)
    return 1 + (foreground_weight - 1) * near


@torch.no_grad()
def read_back(vae: AutoencoderKL) -> dict[str, float]:
    """Share of held-out scenes (and backgrounds) the scene reader still reads right after a trip through the VAE."""
    rng = random.Random("vae/evaluate")
    scenes = [sample_scene(rng, "held_out") for _ in range(NUM_EVAL)]
    pixels = to_pixels(np.stack([render(scene, index) for index, scene in enumerate(scenes)]))
    latents = vae.encode(pixels).latent_dist.mean
    pictures = to_pictures(vae.decode(latents).sample / 2 + 0.5)
    verdicts = [judge(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)]
    return {
        "scenes_read": sum(v.exact and v.size_right == v.num_blocks for v in verdicts) / NUM_EVAL,
        "backgrounds_read": sum(v.background_right for v in verdicts) / NUM_EVAL,
        "latent_std": latents.std().item(),
    }
