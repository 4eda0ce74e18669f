"""What people say about scenes: captions, requests to draw or describe, references to one block."""

import random
from collections.abc import Sequence
from typing import Literal, get_args

from services.trainer.data.blocks.words import (
    as_typed,
    background_word,
    canonical_place,
    pick,
    place,
    shape_word,
    size_word,
)
from services.trainer.data.blocks.world import CELLS, Block, Scene

Attribute = Literal["shape", "colour", "size", "cell"]
ATTRIBUTES: tuple[Attribute, ...] = get_args(Attribute)

# Which attributes a reference may name, and how often where several are unambiguous.
_REFERENCE_WEIGHTS: dict[tuple[Attribute, ...], int] = {
    ("shape",): 8,
    ("colour",): 4,
    ("colour", "shape"): 8,
    ("size", "shape"): 2,
    ("size", "colour", "shape"): 2,
    ("size",): 1,
    ("size", "colour"): 1,
    ("cell",): 4,
    ("shape", "cell"): 1,
    ("colour", "cell"): 1,
    ("colour", "shape", "cell"): 1,
}
_IT_SHARE = 0.3

_DRAW_REQUESTS = (
    "draw {}",
    "please draw {}",
    "create a picture with {}",
    "show me {}",
    "{}",
    "please generate an image of {}",
    "make an image of {}",
    "generate a picture of {}",
    "can you draw {}?",
    "I want a picture of {}",
    "paint {}",
)
_DESCRIBE_REQUESTS = (
    "describe the picture.",
    "what is in the picture?",
    "describe this image.",
    "what do you see?",
    "please describe the image.",
    "what does the picture show?",
)
_SURVEY_REQUESTS = ("describe every cell.", "tell me every cell.", "go through all nine cells.", "list all cells.")


def canonical_caption(scene: Scene) -> str:
    """The one standard description: all blocks in row-major order, then the background."""
    parts = [f"a {block.size} {block.colour} {block.shape} {canonical_place(block.cell)}" for block in scene.blocks]
    return f"{_joined(parts)}, on a {scene.background} background"


def caption(scene: Scene, rng: random.Random) -> str:
    """A varied description that always gives shape, colour and cell of every block.

    Size and background may be left out; what is said is never wrong.
    """
    blocks = list(scene.blocks)
    rng.shuffle(blocks)
    with_size = rng.random() < 0.7
    terse = rng.random() < 0.1
    parts = [_placed_phrase(block, with_size, terse, rng) for block in blocks]
    text = ", ".join(parts) if terse else _joined(parts)
    if rng.random() < 0.6:
        separator = pick((", on a", " on a", ", with a"), rng)
        text += f"{separator} {background_word(scene.background, rng)} background"
    return text


def draw_request(scene: Scene, rng: random.Random) -> str:
    """A user's request to draw the scene."""
    text = pick(_DRAW_REQUESTS, rng).format(caption(scene, rng))
    return as_typed(text if text.endswith("?") else _stopped(text, rng), rng)


def describe_request(rng: random.Random) -> str:
    """A user's request to describe the picture; canonical_caption is its answer."""
    return as_typed(pick(_DESCRIBE_REQUESTS, rng), rng)


def survey_request(rng: random.Random) -> str:
    """A user's request to go through the picture cell by cell; told_cell_by_cell is its answer."""
    return as_typed(pick(_SURVEY_REQUESTS, rng), rng)


def noun_phrase(block: Block, rng: random.Random, with_size: bool = True) -> str:
    """The block without its place and article: "small blue square"."""
    size = f"{size_word(block.size, rng)} " if with_size else ""
    return f"{size}{block.colour} {shape_word(block.shape, rng)}"


def refer(block: Block, scene: Scene, rng: random.Random, hidden: frozenset[Attribute] = frozenset()) -> str:
    """An unambiguous reference to a block of the scene that names no hidden attribute.

    It is "it" only where the scene has one block. ValueError where no such reference exists.
    """
    if block not in scene.blocks:
        raise ValueError(f"block is {block}, must be in the scene {scene.blocks}")
    if len(scene.blocks) == 1 and rng.random() < _IT_SHARE:
        return "it"
    named = [names for names in _REFERENCE_WEIGHTS if _is_unique(names, block, scene, hidden)]
    if not named:
        raise ValueError(f"block is {block}, must differ from the others in more than {sorted(hidden)}")
    names = rng.choices(named, [_REFERENCE_WEIGHTS[option] for option in named])[0]
    return _reference(block, names, rng)


def can_refer(block: Block, scene: Scene, hidden: frozenset[Attribute] = frozenset()) -> bool:
    """Whether `refer` can single the block out without the hidden attributes."""
    return any(_is_unique(names, block, scene, hidden) for names in _REFERENCE_WEIGHTS)


def _is_unique(names: tuple[Attribute, ...], block: Block, scene: Scene, hidden: frozenset[Attribute]) -> bool:
    if not hidden.isdisjoint(names):
        return False
    others = (other for other in scene.blocks if other != block)
    return not any(all(getattr(other, name) == getattr(block, name) for name in names) for other in others)


def _reference(block: Block, names: tuple[Attribute, ...], rng: random.Random) -> str:
    words = ["the"]
    if "size" in names:
        words.append(size_word(block.size, rng))
    if "colour" in names:
        words.append(block.colour)
    if "shape" in names:
        words.append(shape_word(block.shape, rng))
    else:
        # Not "shape": "what shape is the shape" would read badly.
        words.append("one" if rng.random() < 0.5 else rng.choices(("block", "object", "thing"), (5, 2, 1))[0])
    if "cell" in names:
        words.append(place(block.cell, rng))
    return " ".join(words)


def _placed_phrase(block: Block, with_size: bool, terse: bool, rng: random.Random) -> str:
    phrase = noun_phrase(block, rng, with_size)
    if terse:
        return f"{phrase} {place(block.cell, rng).split(' the ')[1]}"
    return f"a {phrase} {place(block.cell, rng)}"


def _joined(parts: list[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _stopped(text: str, rng: random.Random) -> str:
    return f"{text}." if rng.random() < 0.5 else text


def dense_caption(scene: Scene) -> str:
    """Everything there is to say, cell by cell in reading order and three words each, then the background."""
    return told_cell_by_cell([scene.block_at(cell) for cell in range(len(CELLS))], scene.background)


def told_cell_by_cell(cells: Sequence[Block | None], background: str) -> str:
    """A dense caption of all nine cells, full or empty."""
    told = (f"{block.size} {block.colour} {block.shape}" if block else "no block there" for block in cells)
    return f"{' '.join(told)} on a {background} background"
