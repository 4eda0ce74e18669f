"""Pictures with a block in most cells: what vision learns shapes from, several times faster than from scenes of three.

Blocks never reach beyond their cell, so cells of several scenes with one background and one seed make one picture.
"""

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.blocks.language import told_cell_by_cell
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import CELLS, Block, Scene, Split, sample_scene

CELL_EDGES = (0, 22, 43, 64)  # pixels


@dataclass(frozen=True)
class Crowd:
    """A (64, 64, 3) picture and the caption that tells all of it."""

    picture: NDArray[np.uint8]
    caption: str


def crowd(rng: random.Random, split: Split, filled: float) -> Crowd:
    """A scene, and in each of its empty cells one more block with probability `filled`; every block obeys the split."""
    seed = rng.getrandbits(31)
    first = sample_scene(rng, split)
    picture = render(first, seed)
    cells = [first.block_at(cell) for cell in range(len(CELLS))]
    for cell in range(len(CELLS)):
        if cells[cell] is None and rng.random() < filled:
            block = _block_in(cell, rng, split)
            rows, columns = _window(cell)
            picture[rows, columns] = render(Scene((block,), first.background), seed)[rows, columns]
            cells[cell] = block
    return Crowd(picture, told_cell_by_cell(cells, first.background))


def _block_in(cell: int, rng: random.Random, split: Split) -> Block:
    while True:
        found = sample_scene(rng, split).block_at(cell)
        if found is not None:
            return found


def _window(cell: int) -> tuple[slice, slice]:
    row, column = divmod(cell, 3)
    return slice(CELL_EDGES[row], CELL_EDGES[row + 1]), slice(CELL_EDGES[column], CELL_EDGES[column + 1])
