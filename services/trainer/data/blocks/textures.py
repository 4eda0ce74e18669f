"""Background pictures: a tone with a soft texture that the render seed picks."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.blocks.attributes import Background
from services.trainer.data.blocks.hashing import mix
from services.trainer.data.blocks.palette import BACKGROUND_RGB

PICTURE_SIZE = 64
TEXTURES = ("plain", "gradient", "stripes", "speckle")
NUM_VARIANTS = 16

_GRADIENT_SPAN = 10
_STRIPE_DEPTH = 5
_SPECKLE_DEPTH = 7
# Directions as integer steps, so that no floating-point angle can differ between machines.
_DIRECTIONS = ((1, 0), (0, 1), (1, 1), (1, -1), (-1, 0), (0, -1), (-1, -1), (-1, 1))


@cache
def background_picture(tone: Background, texture: str, variant: int) -> NDArray[np.uint8]:
    """The bare background, read-only: copy it before pasting blocks into it."""
    if texture not in TEXTURES:
        raise ValueError(f"texture is {texture!r}, must be one of {TEXTURES}")
    if not 0 <= variant < NUM_VARIANTS:
        raise ValueError(f"variant is {variant}, must be in 0..{NUM_VARIANTS - 1}")
    level = _relief(texture, variant)
    lit = np.array(BACKGROUND_RGB[tone], np.int64) + level[:, :, None]
    picture: NDArray[np.uint8] = np.clip(lit, 0, 255).astype(np.uint8)
    picture.setflags(write=False)
    return picture


def _relief(texture: str, variant: int) -> NDArray[np.int64]:
    # Lightness added to each pixel of the tone.
    y, x = np.mgrid[0:PICTURE_SIZE, 0:PICTURE_SIZE]
    step_x, step_y = _DIRECTIONS[variant % len(_DIRECTIONS)]
    if texture == "gradient":
        along = step_x * (2 * x - PICTURE_SIZE + 1) + step_y * (2 * y - PICTURE_SIZE + 1)
        reach = (PICTURE_SIZE - 1) * (abs(step_x) + abs(step_y))
        gradient: NDArray[np.int64] = along * _GRADIENT_SPAN // reach
        return gradient
    if texture == "stripes":
        period = 5 + 3 * (variant // len(_DIRECTIONS))
        along = (step_x * x + step_y * y + 2 * PICTURE_SIZE) % (2 * period)
        return np.where(along < period, _STRIPE_DEPTH, -_STRIPE_DEPTH)
    if texture == "speckle":
        bits = np.array([mix(variant, index) for index in range(PICTURE_SIZE**2)], np.uint64)
        speckle = (bits % np.uint64(2 * _SPECKLE_DEPTH + 1)).astype(np.int64) - _SPECKLE_DEPTH
        return speckle.reshape(PICTURE_SIZE, PICTURE_SIZE)
    return np.zeros((PICTURE_SIZE, PICTURE_SIZE), np.int64)
