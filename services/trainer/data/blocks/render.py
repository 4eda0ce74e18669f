"""Turn a scene into its picture."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.blocks.attributes import Colour, Shape, Size
from services.trainer.data.blocks.hashing import mix
from services.trainer.data.blocks.masks import CELL_CENTRES, JITTER_HALVES, PATCH, mask, patch_corner
from services.trainer.data.blocks.palette import COLOUR_RGB
from services.trainer.data.blocks.textures import NUM_VARIANTS, TEXTURES, background_picture
from services.trainer.data.blocks.world import Block, Scene

_TEXTURE_KEY = 1
_JITTER_KEY = 2


def render(scene: Scene, seed: int) -> NDArray[np.uint8]:
    """The 64 x 64 RGB picture of the scene; texture and jitter depend on the seed and the cell only.

    So the pictures of a scene and of its edit, rendered with one seed, agree outside the edited cells.
    """
    bits = mix(_TEXTURE_KEY, seed)
    texture = TEXTURES[bits % len(TEXTURES)]
    variant = (bits >> 8) % NUM_VARIANTS
    picture = background_picture(scene.background, texture, variant).copy()
    for block in scene.blocks:
        _paste(picture, block, seed)
    return picture


def _paste(picture: NDArray[np.uint8], block: Block, seed: int) -> None:
    bits = mix(_JITTER_KEY, seed, block.cell)
    left, x_half = patch_corner(CELL_CENTRES[block.column], JITTER_HALVES[bits % len(JITTER_HALVES)])
    top, y_half = patch_corner(CELL_CENTRES[block.row], JITTER_HALVES[(bits >> 8) % len(JITTER_HALVES)])
    paint, veil = _layers(block.shape, block.size, block.colour, x_half, y_half)
    patch = picture[top : top + PATCH, left : left + PATCH]
    patch[...] = (patch * veil + paint) // 255


@cache
def _layers(
    shape: Shape, size: Size, colour: Colour, x_half: int, y_half: int
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    # The colour's share of the blend (with the rounding half added) and the background's weight;
    # their sum stays below 2**16, so the blend needs no wider type.
    coverage = mask(shape, size, x_half, y_half)[:, :, None]
    paint = coverage * np.array(COLOUR_RGB[colour], np.uint16) + np.uint16(127)
    veil = np.broadcast_to(255 - coverage, (PATCH, PATCH, 3)).astype(np.uint16)
    return paint, veil
