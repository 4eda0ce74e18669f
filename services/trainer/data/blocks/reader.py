"""The judge: read a picture, rendered or generated, back into blocks, and compare with a target."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.blocks.attributes import BACKGROUNDS, COLOURS, NUM_COLUMNS, Background
from services.trainer.data.blocks.masks import CELL_CENTRES
from services.trainer.data.blocks.palette import BACKGROUND_RGB, COLOUR_RGB
from services.trainer.data.blocks.templates import DEAD_ZONE, FRAME, templates
from services.trainer.data.blocks.textures import PICTURE_SIZE
from services.trainer.data.blocks.world import Block, Scene

# Paint in a cell, in pixels, below which there is no block; the smallest block has about 60.
_MIN_PAINT = 20.0
# Overlap with the best template below which the paint is no block; wrong shapes score 0.6 to 0.85.
_MIN_OVERLAP = 0.5

_COLOUR_TABLE = np.array([COLOUR_RGB[colour] for colour in COLOURS], np.float32)
_TONE_TABLE = np.array([BACKGROUND_RGB[tone] for tone in BACKGROUNDS], np.float32)


@dataclass(frozen=True)
class Reading:
    """What the reader found: zero to nine blocks in row-major order, and the background tone."""

    blocks: tuple[Block, ...]
    background: Background


@dataclass(frozen=True)
class Verdict:
    """How a picture compares with its target.

    A block is right when shape, colour and cell are; `size_right` counts right blocks of the right
    size too; `extra` counts blocks in cells the target leaves empty; `exact` means all blocks right
    and none extra, whatever the sizes and the background.
    """

    num_blocks: int
    num_right: int
    extra: int
    exact: bool
    size_right: int
    background_right: bool


def judge(image: NDArray[np.uint8], target: Scene) -> Verdict:
    """Compare the picture with the scene it should show."""
    reading = read(image)
    found = {block.cell: block for block in reading.blocks}
    pairs = [(block, found[block.cell]) for block in target.blocks if block.cell in found]
    right = [(want, got) for want, got in pairs if (want.shape, want.colour) == (got.shape, got.colour)]
    extra = len(found) - len(pairs)
    return Verdict(
        num_blocks=len(target.blocks),
        num_right=len(right),
        extra=extra,
        exact=len(right) == len(target.blocks) and extra == 0,
        size_right=sum(want.size == got.size for want, got in right),
        background_right=reading.background == target.background,
    )


def read(image: NDArray[np.uint8]) -> Reading:
    """Find the blocks and the background tone of any 64 x 64 RGB picture."""
    expected = (PICTURE_SIZE, PICTURE_SIZE, 3)
    if image.shape != expected:
        raise ValueError(f"image has shape {image.shape}, must be {expected}")
    pixels = image.reshape(-1, 3).astype(np.float32)
    tone, backdrop = _background(pixels)
    opacity, error = _explanations(pixels - backdrop, _COLOUR_TABLE - backdrop)
    blocks = (_read_cell(opacity, error, cell) for cell in range(NUM_COLUMNS**2))
    return Reading(tuple(block for block in blocks if block is not None), tone)


def _background(pixels: NDArray[np.float32]) -> tuple[Background, NDArray[np.float32]]:
    # Each pixel votes for the nearest tone unless a block colour is nearer; the median of the
    # winner's voters follows an off-colour background better than the tone itself.
    table = np.concatenate((_TONE_TABLE, _COLOUR_TABLE))
    distance = (table * table).sum(axis=1) - 2.0 * pixels @ table.T
    nearest = distance.argmin(axis=1)
    votes = np.bincount(nearest, minlength=len(table))[: len(BACKGROUNDS)]
    winner = int(votes.argmax())
    if votes[winner] == 0:
        return BACKGROUNDS[winner], _TONE_TABLE[winner]
    return BACKGROUNDS[winner], np.median(pixels[nearest == winner], axis=0).astype(np.float32)


def _explanations(
    offsets: NDArray[np.float32], colours: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    # Each pixel as the background blended with a colour: for each colour (first axis) the best
    # opacity in 0..1, and the squared error that this blend leaves.
    power = (colours * colours).sum(axis=1)[:, None]
    along = colours @ offsets.T
    opacity = np.clip(along / power, 0.0, 1.0)
    error = (offsets * offsets).sum(axis=1)[None, :] - opacity * (2.0 * along - opacity * power)
    side = (len(colours), PICTURE_SIZE, PICTURE_SIZE)
    return opacity.reshape(side), error.reshape(side)


def _read_cell(opacity: NDArray[np.float32], error: NDArray[np.float32], cell: int) -> Block | None:
    top, left = (CELL_CENTRES[i] - FRAME // 2 for i in divmod(cell, NUM_COLUMNS))
    window = (slice(None), slice(top, top + FRAME), slice(left, left + FRAME))
    colour = int(error[window].sum(axis=(1, 2)).argmin())
    paint = opacity[window][colour].ravel()
    paint = np.where(paint < DEAD_ZONE, np.float32(0.0), paint)
    total = float(paint.sum())
    if total < _MIN_PAINT:
        return None
    known = templates()
    shared = np.minimum(known.rows, paint).sum(axis=1)
    overlap = shared / (known.areas + total - shared)
    best = int(overlap.argmax())
    if overlap[best] < _MIN_OVERLAP:
        return None
    shape, size = known.names[best]
    return Block(shape, COLOURS[colour], size, cell)
