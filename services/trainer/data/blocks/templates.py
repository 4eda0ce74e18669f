"""What a block can look like in a cell: every shape, size and jitter, sharp and blurred."""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.blocks.attributes import SHAPES, SIZES, Shape, Size
from services.trainer.data.blocks.masks import CELL_CENTRES, JITTER_HALVES, PATCH, mask, patch_corner

# The window around a cell's centre in which a block is sought: the cell and a pixel of margin.
FRAME = 2 * CELL_CENTRES[0]
# Opacity below this is taken for texture, noise or compression error and not for paint.
DEAD_ZONE = 0.25

# A Gaussian of one pixel. Generated pictures are often that soft, and a soft square is nearer to a
# sharp circle than to a sharp square, so the templates come in both.
_SOFT_KERNEL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_SHARP_KERNEL = (1.0,)


@dataclass(frozen=True)
class Templates:
    """The shape and size of each template, the templates as flat rows of opacity, and their areas."""

    names: tuple[tuple[Shape, Size], ...]
    rows: NDArray[np.float32]
    areas: NDArray[np.float32]


@cache
def templates() -> Templates:
    """All templates on a FRAME x FRAME window, with opacities below DEAD_ZONE set to nought."""
    names: list[tuple[Shape, Size]] = []
    rows: list[NDArray[np.float32]] = []
    for kernel, shape, size in product((_SHARP_KERNEL, _SOFT_KERNEL), SHAPES, SIZES):
        for y_offset, x_offset in product(JITTER_HALVES, JITTER_HALVES):
            window = _blurred(_window(shape, size, x_offset, y_offset), kernel)
            names.append((shape, size))
            rows.append(np.where(window < DEAD_ZONE, 0.0, window).astype(np.float32).ravel())
    stacked = np.stack(rows)
    return Templates(tuple(names), stacked, stacked.sum(axis=1))


def _window(shape: Shape, size: Size, x_offset: int, y_offset: int) -> NDArray[np.float64]:
    top, y_half = patch_corner(FRAME // 2, y_offset)
    left, x_half = patch_corner(FRAME // 2, x_offset)
    window = np.zeros((FRAME, FRAME))
    window[top : top + PATCH, left : left + PATCH] = mask(shape, size, x_half, y_half) / 255.0
    return window


def _blurred(window: NDArray[np.float64], kernel: tuple[float, ...]) -> NDArray[np.float64]:
    reach = len(kernel) // 2
    for axis in (0, 1):
        padding = [(reach, reach) if axis == side else (0, 0) for side in (0, 1)]
        padded = np.pad(window, padding)
        parts = (weight * padded.take(range(i, i + FRAME), axis) for i, weight in enumerate(kernel))
        window = np.sum(list(parts), axis=0)
    return window
