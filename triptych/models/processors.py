"""Pictures to tensors and back, the same in training and serving."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from triptych.errors import CheckpointError
from triptych.models.base import read_json


@dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """Resize to a square, scale to 0..1, normalise: what transformers' SiglipImageProcessor does (no crop, no pad).

    `resample` is Pillow's number (3: bicubic), as `preprocessor_config.json` writes it.
    """

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resample: int = 3

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads `preprocessor_config.json`. Raises CheckpointError when it asks for what this class does not do."""
        path = folder / "preprocessor_config.json"
        values = read_json(path)
        try:
            side, other = values["size"]["height"], values["size"]["width"]
            mean, std, resample = tuple(values["image_mean"]), tuple(values["image_std"]), values["resample"]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: no or no usable {error}") from error
        switched_off = not all(values.get(key, True) for key in ("do_resize", "do_rescale", "do_normalize"))
        rescaled = math.isclose(values.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6)
        if side != other or values.get("do_center_crop") or switched_off or not rescaled:
            raise CheckpointError(
                f"{path}: only a square resize without crop, 1/255 and normalisation are supported, not {values}"
            )
        return cls(size=side, mean=mean, std=std, resample=resample)

    def to_dict(self) -> dict[str, Any]:
        """`preprocessor_config.json`, as transformers writes it."""
        return {
            "image_processor_type": "SiglipImageProcessor",
            "do_resize": True,
            "size": {"height": self.size, "width": self.size},
            "resample": self.resample,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }

    def __call__(self, images: list[Image.Image]) -> Tensor:
        """RGB pictures of any size to pixel_values (B, 3, size, size)."""
        size = (self.size, self.size)
        arrays = [np.asarray(i.convert("RGB").resize(size, Image.Resampling(self.resample))) for i in images]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
        return (pixels - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)


def to_pixels(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) to pixels (B, 3, H, W) in [-1, 1], the VAE's range."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(pixels: Tensor) -> NDArray[np.uint8]:
    """Pixels (B, 3, H, W) in [0, 1] to uint8 (B, H, W, 3), rounded as diffusers does."""
    scaled = pixels.float().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy() * 255
    return scaled.round().astype(np.uint8)
