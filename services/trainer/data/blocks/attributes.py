"""The attribute values of the Blocks world: shapes, colours, sizes, cells and background tones."""

from typing import Literal, get_args

Shape = Literal["circle", "square", "triangle", "cross"]
Colour = Literal["red", "green", "blue", "yellow", "purple", "cyan"]
Size = Literal["small", "large"]
Background = Literal["white", "grey", "black", "sand"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
SIZES: tuple[Size, ...] = get_args(Size)
BACKGROUNDS: tuple[Background, ...] = get_args(Background)

# Row-major names of the cells of the grid; a block stores the index into this tuple.
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
NUM_COLUMNS = 3
MAX_BLOCKS = 3
