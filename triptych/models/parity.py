"""Whether a graph computes what the module does that it was made from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from triptych.cosine import cosine
from triptych.errors import ExportError
from triptych.models.probe_values import picture

Array = NDArray[Any]
Model = Callable[..., Array]

BATCH_SIZES: Final = (1, 3, 8, 12)  # the inputs come in batches of these: a batch that is not free shows here
NUM_IMAGES: Final = sum(BATCH_SIZES)
COSINE_MINS: Final = {"f32": 0.9999, "bf16": 0.999, "f16": 0.999, "int8": 0.999}


@dataclass(frozen=True)
class Parity:
    """Over `images` inputs: the lowest cosine of an output to the reference's, and the largest difference."""

    images: int
    cosine_min_seen: float
    max_abs_difference: float


def compare(found: Model, expected: Model, inputs: tuple[Array, ...], center: float = 0.0) -> Parity:
    """Both models' outputs for all rows of `inputs`, row by row. `center` is taken off first: a cosine says little
    about values that lie far from 0. Raises ExportError when shapes differ; NaN gives NaN."""
    pairs: list[tuple[Array, Array]] = []
    start = 0
    for size in BATCH_SIZES:
        rows = tuple(array[start : start + size] for array in inputs)
        start += size
        a, b = found(*rows) - center, expected(*rows) - center
        if a.shape != b.shape:
            raise ExportError(f"a batch of {size} gives shape {a.shape}, must be {b.shape}")
        pairs += zip(a, b, strict=True)
    cosines = np.array([cosine(a, b) for a, b in pairs])
    differences = [float(np.abs(a - b).max()) for a, b in pairs]
    return Parity(len(pairs), float(cosines.min()), max(differences))


def check_parity(part: str, parity: Parity, cosine_min: float) -> None:
    """Raises ExportError naming the part, what it reached and what it had to; NaN is too low."""
    if not parity.cosine_min_seen >= cosine_min:
        raise ExportError(
            f"{part} reaches cosine {parity.cosine_min_seen:.6f} to torch over {parity.images} inputs (largest "
            f"difference {parity.max_abs_difference:.3g}), must be at least {cosine_min}: nothing is written"
        )


def parity_pictures() -> list[Image.Image]:
    """NUM_IMAGES pictures of many sizes: waves and blocks, noise, and smooth shades, in turn; always the same."""
    random = np.random.default_rng(0)
    pictures = []
    for index in range(NUM_IMAGES):
        height, width = (int(side) for side in random.integers(24, 160, 2))
        match index % 3:
            case 0:
                pixels = picture(height, width, index)
            case 1:
                pixels = random.integers(0, 256, (height, width, 3), np.uint8)
            case _:
                ends = random.uniform(0, 255, (2, 2, 3)).astype(np.uint8)
                pixels = np.asarray(Image.fromarray(ends).resize((width, height), Image.Resampling.BILINEAR))
        pictures.append(Image.fromarray(pixels))
    return pictures
