"""Pictures to tensors and back, the same in training and serving.

Imports torch only where a tensor is asked for: a service on another backend preprocesses without it.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from triptych.errors import CheckpointError, InvalidArgument
from triptych.models.json_file import read_json, read_value

if TYPE_CHECKING:
    from torch import Tensor

MAX_ASPECT = 100


@dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """Make square, scale to 0..1, normalise, as transformers' SiglipImageProcessor and CLIPImageProcessor do.

    `fit`: "stretch" resizes both sides (SigLIP); "crop" resizes the shorter one and cuts out the middle (CLIP).
    `resample` is Pillow's number (3: bicubic), as `preprocessor_config.json` writes it.
    """

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resample: int = 3
    fit: Literal["stretch", "crop"] = "stretch"

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads `preprocessor_config.json`, or what transformers 5 writes for models of several media instead.

        Raises CheckpointError when it asks for what this class does not do.
        """
        path, whole = folder / "preprocessor_config.json", folder / "processor_config.json"
        if path.is_file() or not whole.is_file():
            values = read_json(path)
        else:
            path, values = whole, read_value(whole, "image_processor")
        try:
            side, fit = _square_size(values)
            mean, std = _three(values["image_mean"]), _three(values["image_std"])
            resample = int(Image.Resampling(values["resample"]))
            rescaled = math.isclose(values.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: no or no usable value: {error}, in {values}") from error
        switched_off = not all(values.get(key, True) for key in ("do_resize", "do_rescale", "do_normalize"))
        if not side or switched_off or not rescaled or values.get("do_pad"):
            raise CheckpointError(
                f"{path}: only resizing to a square or to the shorter edge with a square centre crop, 1/255 and "
                f"normalisation are supported, not {values}"
            )
        return cls(size=side, mean=mean, std=std, resample=resample, fit=fit)

    def to_dict(self) -> dict[str, Any]:
        """`preprocessor_config.json`, as transformers writes it."""
        square = {"height": self.size, "width": self.size}
        fit: dict[str, Any] = {"image_processor_type": "SiglipImageProcessor", "size": square}
        if self.fit == "crop":
            fit = {
                "image_processor_type": "CLIPImageProcessor",
                "size": {"shortest_edge": self.size},
                "do_center_crop": True,
                "crop_size": square,
            }
        return {
            **fit,
            "do_resize": True,
            "resample": self.resample,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }

    def __call__(self, images: list[Image.Image]) -> "Tensor":
        """`pixel_values` as a tensor."""
        import torch

        return torch.from_numpy(self.pixel_values(images))

    def pixel_values(self, images: list[Image.Image]) -> NDArray[np.float32]:
        """RGB pictures to pixel_values (B, 3, size, size). Raises InvalidArgument for strips too long to crop."""
        arrays = [np.asarray(self._square(image.convert("RGB"))) for image in images]
        pixels = np.stack(arrays).transpose(0, 3, 1, 2).astype(np.float32, order="C") / np.float32(255)
        mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std

    def _square(self, image: Image.Image) -> Image.Image:
        resample, edge = Image.Resampling(self.resample), self.size
        if self.fit == "stretch":
            return image.resize((edge, edge), resample)
        short = min(image.size)
        if max(image.size) > MAX_ASPECT * short:  # a strip of 1 x 100,000 pixels would take gigabytes
            raise InvalidArgument(
                f"picture is {image.width} x {image.height}, its sides differ over {MAX_ASPECT} times"
            )
        width, height = (edge if side == short else int(edge * side / short) for side in image.size)
        left, top = (width - edge) // 2, (height - edge) // 2
        return image.resize((width, height), resample).crop((left, top, left + edge, top + edge))


def _square_size(values: dict[str, Any]) -> tuple[int, Literal["stretch", "crop"]]:
    """Pixels per side, 0 when the result is no square we make; old files write plain numbers for both sizes."""
    size = values["size"]
    if not values.get("do_center_crop"):
        fits = isinstance(size, dict) and size["height"] == size["width"]
        return (int(size["height"]) if fits else 0), "stretch"
    edge = size if isinstance(size, int) else size.get("shortest_edge", 0)
    crop = values["crop_size"]
    sides = {crop} if isinstance(crop, int) else {crop["height"], crop["width"]}
    return (int(edge) if sides == {edge} else 0), "crop"


def _three(values: list[float]) -> tuple[float, float, float]:
    """One number per colour."""
    red, green, blue = values
    return float(red), float(green), float(blue)


def to_pixels(pictures: NDArray[np.uint8]) -> "Tensor":
    """uint8 (B, H, W, 3) to pixels (B, 3, H, W) in [-1, 1], the VAE's range."""
    import torch

    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(pixels: "Tensor") -> NDArray[np.uint8]:
    """Pixels (B, 3, H, W) in [0, 1] to uint8 (B, H, W, 3), rounded as diffusers does."""
    scaled = pixels.float().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy() * 255
    pictures: NDArray[np.uint8] = scaled.round().astype(np.uint8)
    return pictures
