"""The graphs that a component is exported as, each with the inputs on which it must equal torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from triptych.card import Card
from triptych.exports import ENCODER_GRAPH, INPUT, OUTPUT
from triptych.models.decoder_stage import DecoderStage
from triptych.models.decoders.latent_diffusion import LatentDiffusion, decode_latents
from triptych.models.encoder_stage import EncoderStage
from triptych.models.parity import NUM_IMAGES, parity_pictures
from triptych.models.processors import to_pixels


@dataclass(frozen=True)
class Part:
    """One graph: `module` in float32, NUM_IMAGES rows for each input by name, and the output's name. `center` is
    where the output's values lie."""

    file: str
    module: nn.Module
    inputs: dict[str, NDArray[np.float32]]
    output: str
    center: float = 0.0

    @property
    def name(self) -> str:
        return self.file.removesuffix(".onnx")

    def examples(self) -> dict[str, Tensor]:
        """Two rows of each input."""
        return {name: torch.from_numpy(rows[:2]) for name, rows in self.inputs.items()}

    def reference(self, *inputs: NDArray[np.float32]) -> NDArray[Any]:
        """What torch computes, in float32."""
        return run(self.module, *inputs)


@torch.inference_mode()
def run(module: nn.Module, *inputs: NDArray[np.float32]) -> NDArray[Any]:
    """What torch computes, on the CPU."""
    return module(*map(torch.from_numpy, inputs)).numpy()  # type: ignore[no-any-return]


def encoder_parts(folder: Path, card: Card) -> list[Part]:
    """Vision tower and projector in one graph: what Encode returns."""
    stage = EncoderStage.load(folder)
    return [Part(ENCODER_GRAPH, stage, {INPUT: stage.processor.pixel_values(parity_pictures())}, OUTPUT)]


def decoder_parts(folder: Path, card: Card) -> list[Part]:
    """The generation head, and the VAE's decoder: scaled latents (B, C, H, W) to pixels (B, 3, H', W') in 0..1."""
    stage = DecoderStage.load(folder)
    shape = (NUM_IMAGES, *card.input("hidden_states").shape)
    random = np.random.default_rng(0)
    handed_over: dict[str, NDArray[np.float32]] = {
        "hidden_states": random.standard_normal(shape, np.float32),
        "embeddings": random.standard_normal(shape, np.float32) * np.float32(0.1),
    }
    latents = {"latents": _latents(stage.decoder)}
    return [
        Part("head.onnx", stage.head, handed_over, "conditioning"),
        Part("vae_decoder.onnx", VaeDecoder(stage.decoder.vae), latents, "pixels", center=0.5),
    ]


PARTS: Final[dict[str, Callable[[Path, Card], list[Part]]]] = {"encoder": encoder_parts, "decoder": decoder_parts}


class VaeDecoder(nn.Module):
    """`LatentDiffusion.decode` without the UNet."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents_BCHW: Tensor) -> Tensor:
        return decode_latents(self.vae, latents_BCHW)


@torch.inference_mode()
def _latents(decoder: LatentDiffusion) -> NDArray[np.float32]:
    """Of the pictures, as the VAE itself encodes them."""
    size = (decoder.image_size, decoder.image_size)
    pictures = [np.array(image.resize(size, Image.Resampling.BICUBIC)) for image in parity_pictures()]
    return np.concatenate([decoder.encode(to_pixels(picture[None])).numpy() for picture in pictures])
