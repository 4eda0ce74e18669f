"""Which shape x colour x cell combinations are held out of training."""

from functools import cache
from typing import Literal, Protocol, get_args

from services.trainer.data.blocks.attributes import COLOURS, NUM_COLUMNS, SHAPES, Colour, Shape

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = get_args(Split)

_MODULUS = 6


class Placed(Protocol):
    """Anything with a shape, a colour and a cell index; a Block above all."""

    @property
    def shape(self) -> Shape: ...

    @property
    def colour(self) -> Colour: ...

    @property
    def cell(self) -> int: ...


def is_held_out(block: Placed) -> bool:
    """Whether the block's shape x colour x cell combination never occurs in training."""
    return _combination_is_held_out(block.shape, block.colour, block.cell)


@cache
def _combination_is_held_out(shape: Shape, colour: Colour, cell: int) -> bool:
    # One residue class of six. For a fixed shape and cell exactly one of the six colours is held out,
    # so 36 of 216 combinations are. Adding the row makes the class drift along the grid, so that each
    # shape-colour pair loses one or two of its nine cells.
    residue = SHAPES.index(shape) + COLOURS.index(colour) + cell + cell // NUM_COLUMNS
    return residue % _MODULUS == 0
