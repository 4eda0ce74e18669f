"""The wording of single attribute values: synonyms and spellings, each drawn by lot."""

import random

from services.trainer.data.blocks.attributes import CELLS, NUM_COLUMNS, Background, Shape, Size

_CENTER_CELL = 4
_ROWS = ("top", "center", "bottom")
_PLURALS: dict[str, str] = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "cross": "crosses",
    "plus": "pluses",
    "block": "blocks",
    "object": "objects",
    "shape": "shapes",
    "thing": "things",
}


def plural(noun: str) -> str:
    """The plural of a noun of this world."""
    return _PLURALS[noun]


def shape_word(shape: Shape, rng: random.Random) -> str:
    """A name of the shape; a cross is sometimes a plus."""
    return "plus" if shape == "cross" and rng.random() < 0.2 else shape


def size_word(size: Size, rng: random.Random) -> str:
    """A name of the size; sometimes big for large or little for small."""
    synonym = "big" if size == "large" else "little"
    return synonym if rng.random() < 0.25 else size


def background_word(background: Background, rng: random.Random) -> str:
    """A name of the background tone, in British or American spelling."""
    return "gray" if background == "grey" and rng.random() < 0.3 else background


def colour_noun(rng: random.Random) -> str:
    """The word colour itself, in American or British spelling."""
    return "color" if rng.random() < 0.6 else "colour"


def thing_noun(rng: random.Random) -> str:
    """A noun for a block whose shape is not said; mostly "block"."""
    return rng.choices(("block", "object", "shape", "thing"), (5, 2, 2, 1))[0]


def cell_words(cell: int, rng: random.Random) -> str:
    """A name of the cell: mostly as in CELLS, sometimes with middle, upper or lower."""
    if cell == _CENTER_CELL:
        return "middle" if rng.random() < 0.3 else "center"
    if cell % NUM_COLUMNS != 1 and cell // NUM_COLUMNS != 1:
        row = _ROWS[cell // NUM_COLUMNS]
        synonym = {"top": "upper", "bottom": "lower"}[row]
        return CELLS[cell].replace(row, synonym) if rng.random() < 0.15 else CELLS[cell]
    return CELLS[cell].replace("center", "middle") if rng.random() < 0.3 else CELLS[cell]


def canonical_place(cell: int) -> str:
    """The cell with its one standard preposition: "at the top left", "in the center"."""
    return f"in the {CELLS[cell]}" if cell == _CENTER_CELL else f"at the {CELLS[cell]}"


def place(cell: int, rng: random.Random) -> str:
    """The cell with a preposition, in varied words."""
    preposition = "in" if cell == _CENTER_CELL or rng.random() < 0.2 else "at"
    return f"{preposition} the {cell_words(cell, rng)}"


def as_typed(text: str, rng: random.Random) -> str:
    """The sentence as users type it: mostly proper, sometimes all lower case without the final mark."""
    if rng.random() < 0.25:
        return text.lower().rstrip(".?")
    return text[0].upper() + text[1:]


def pick(variants: tuple[str, ...], rng: random.Random) -> str:
    """One of the variants; the first half is three times as likely as the rest."""
    half = (len(variants) + 1) // 2
    return rng.choices(variants, [3] * half + [1] * (len(variants) - half))[0]
