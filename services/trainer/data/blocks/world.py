"""The Blocks world itself: what a block and a scene are, and how a scene is drawn by lot."""

import random
from dataclasses import dataclass
from typing import Literal, get_args

Shape = Literal["circle", "square", "triangle", "cross"]
Colour = Literal["red", "green", "blue", "yellow", "purple", "cyan"]
Size = Literal["small", "large"]
Background = Literal["white", "grey", "black", "sand"]
Split = Literal["train", "held_out"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
SIZES: tuple[Size, ...] = get_args(Size)
BACKGROUNDS: tuple[Background, ...] = get_args(Background)
SPLITS: tuple[Split, ...] = get_args(Split)

CELLS: tuple[str, ...] = (
    "top left",
    "top center",
    "top right",
    "center left",
    "center",
    "center right",
    "bottom left",
    "bottom center",
    "bottom right",
)
GRID = 3
MAX_BLOCKS = 3

# Held-out combinations lie on one residue of this form. With four shapes, six colours and nine cells
# the weights make every shape, colour, cell and shape-colour pair lose 1/6 of its share, give or take
# a cell: for a fixed shape and cell exactly one of the six colours is held out.
_HELD_OUT_MODULUS = 6


def combination_is_held_out(shape: Shape, colour: Colour, cell: int) -> bool:
    """Whether this shape x colour x cell combination never occurs in training."""
    residue = SHAPES.index(shape) + COLOURS.index(colour) + cell + cell // GRID
    return residue % _HELD_OUT_MODULUS == 0
