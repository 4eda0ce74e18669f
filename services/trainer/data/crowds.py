"""Pictures with a block in most cells: what a VAE learns shapes from, several times faster than from scenes of three.

Blocks never reach beyond their cell, so cells of several scenes with one background and one seed make one picture.
"""

import random

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import CELLS, Block, Scene, Split, sample_scene

CELL_EDGES = (0, 22, 43, 64)  # pixels


def crowd(rng: random.Random, split: Split, filled: float) -> NDArray[np.uint8]:
    """A (64, 64, 3) picture in which each cell holds a block with probability `filled`; every block obeys the split."""
    seed = rng.getrandbits(31)
    first = sample_scene(rng, split)
    picture = render(first, seed)
    for cell in range(len(CELLS)):
        if first.block_at(cell) is None and rng.random() < filled:
            scene = Scene((_block_in(cell, rng, split),), first.background)
            rows, columns = _window(cell)
            picture[rows, columns] = render(scene, seed)[rows, columns]
    return picture


def _block_in(cell: int, rng: random.Random, split: Split) -> Block:
    while True:
        found = sample_scene(rng, split).block_at(cell)
        if found is not None:
            return found


def _window(cell: int) -> tuple[slice, slice]:
    row, column = divmod(cell, 3)
    return slice(CELL_EDGES[row], CELL_EDGES[row + 1]), slice(CELL_EDGES[column], CELL_EDGES[column + 1])
