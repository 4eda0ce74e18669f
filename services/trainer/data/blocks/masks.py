"""Anti-aliased coverage masks of the block shapes, and where on the picture they sit."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.blocks.attributes import Shape, Size

# Whole-pixel cell centres. With shapes reaching less than 9 px and a jitter of 1 px, a pixel of
# background always remains between neighbours, and a 20 px patch always lies inside the picture.
CELL_CENTRES = (11, 32, 53)
PATCH = 20
JITTER_HALVES = (-2, -1, 0, 1, 2)
"""Offsets of a block's centre from its cell's centre, in half pixels."""

_RADIUS: dict[Size, float] = {"small": 5.5, "large": 8.5}
_SUPERSAMPLING = 8


def patch_corner(centre: int, offset_halves: int) -> tuple[int, int]:
    """Where the patch of a block begins along one axis, and its centre's fraction in half pixels."""
    return centre + offset_halves // 2 - PATCH // 2, offset_halves % 2


@cache
def mask(shape: Shape, size: Size, x_half: int, y_half: int) -> NDArray[np.uint16]:
    """Coverage 0..255 on a PATCH x PATCH grid, centred at its middle plus half a pixel per *_half."""
    steps = (np.arange(PATCH * _SUPERSAMPLING) + 0.5) / _SUPERSAMPLING - PATCH / 2
    x = (steps - x_half / 2)[None, :] / _RADIUS[size]
    y = (steps - y_half / 2)[:, None] / _RADIUS[size]
    inside = _inside(shape, x, y)
    counts = inside.reshape(PATCH, _SUPERSAMPLING, PATCH, _SUPERSAMPLING).sum(axis=(1, 3))
    coverage: NDArray[np.uint16] = (counts * 255 // _SUPERSAMPLING**2).astype(np.uint16)
    return coverage


def _inside(shape: Shape, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    # In units of the radius; the extents differ so that the shapes look about equally heavy.
    if shape == "circle":
        return x * x + y * y <= 1.0
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= 0.88
    if shape == "triangle":
        top, bottom, half_base = -1.05, 1.0, 1.055
        return (y <= bottom) & (np.abs(x) * (bottom - top) <= half_base * (y - top))
    arm, half_thickness = 1.055, 0.36
    long_side, short_side = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return (long_side <= arm) & (short_side <= half_thickness)
