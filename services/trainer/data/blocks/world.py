"""The Blocks world itself: what a block and a scene are, and how a scene is drawn by lot."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from services.trainer.data.blocks.attributes import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    MAX_BLOCKS,
    NUM_COLUMNS,
    SHAPES,
    SIZES,
    Background,
    Colour,
    Shape,
    Size,
)
from services.trainer.data.blocks.splits import SPLITS, Split, is_held_out

__all__ = [
    "BACKGROUNDS",
    "CELLS",
    "COLOURS",
    "MAX_BLOCKS",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "Background",
    "Block",
    "Colour",
    "Scene",
    "Shape",
    "Size",
    "Split",
    "obeys",
    "sample_scene",
]


@dataclass(frozen=True, order=True)
class Block:
    """One coloured shape in one cell of the grid."""

    shape: Shape
    colour: Colour
    size: Size
    cell: int

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"shape is {self.shape!r}, must be one of {SHAPES}")
        if self.colour not in COLOURS:
            raise ValueError(f"colour is {self.colour!r}, must be one of {COLOURS}")
        if self.size not in SIZES:
            raise ValueError(f"size is {self.size!r}, must be one of {SIZES}")
        if not 0 <= self.cell < len(CELLS):
            raise ValueError(f"cell is {self.cell}, must be in 0..{len(CELLS) - 1}")

    @property
    def row(self) -> int:
        """0 at the top, 2 at the bottom."""
        return self.cell // NUM_COLUMNS

    @property
    def column(self) -> int:
        """0 at the left, 2 at the right."""
        return self.cell % NUM_COLUMNS

    @property
    def cell_name(self) -> str:
        """The cell in words, such as "top left"."""
        return CELLS[self.cell]


@dataclass(frozen=True)
class Scene:
    """Blocks in different cells on a background tone, sorted by cell; `sample_scene` makes scenes of one to three."""

    blocks: tuple[Block, ...]
    background: Background

    def __post_init__(self) -> None:
        if not 1 <= len(self.blocks) <= len(CELLS):
            raise ValueError(f"scene has {len(self.blocks)} blocks, must have 1..{len(CELLS)}")
        if self.background not in BACKGROUNDS:
            raise ValueError(f"background is {self.background!r}, must be one of {BACKGROUNDS}")
        cells = [block.cell for block in self.blocks]
        if len(set(cells)) != len(cells):
            raise ValueError(f"blocks share a cell: cells are {cells}, must all differ")
        object.__setattr__(self, "blocks", tuple(sorted(self.blocks, key=lambda block: block.cell)))

    @property
    def empty_cells(self) -> tuple[int, ...]:
        """The cells that hold no block, in row-major order."""
        taken = {block.cell for block in self.blocks}
        return tuple(cell for cell in range(len(CELLS)) if cell not in taken)

    @property
    def has_held_out(self) -> bool:
        """Whether any block is a held-out combination."""
        return any(is_held_out(block) for block in self.blocks)

    def block_at(self, cell: int) -> Block | None:
        """The block in this cell, or None when the cell is empty."""
        return next((block for block in self.blocks if block.cell == cell), None)

    def with_change(self, before: Iterable[Block], after: Iterable[Block]) -> "Scene":
        """The scene with the blocks `before` taken away and the blocks `after` put in."""
        gone = set(before)
        kept = tuple(block for block in self.blocks if block not in gone)
        return Scene((*kept, *after), self.background)


def obeys(scene: Scene, split: Split) -> bool:
    """Whether the scene belongs to the split: train has no held-out block, held_out at least one."""
    return scene.has_held_out == (split == "held_out")


def sample_scene(rng: random.Random, split: Split, num_blocks: int | None = None) -> Scene:
    """A random scene of the split, with `num_blocks` blocks or a uniformly drawn number of them."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, must be one of {SPLITS}")
    if num_blocks is None:
        num_blocks = rng.randint(1, MAX_BLOCKS)
    if not 1 <= num_blocks <= MAX_BLOCKS:
        raise ValueError(f"num_blocks is {num_blocks}, must be in 1..{MAX_BLOCKS}")
    background = rng.choice(BACKGROUNDS)
    while True:
        cells = rng.sample(range(len(CELLS)), num_blocks)
        blocks = tuple(Block(rng.choice(SHAPES), rng.choice(COLOURS), rng.choice(SIZES), cell) for cell in cells)
        scene = Scene(blocks, background)
        if obeys(scene, split):
            return scene
