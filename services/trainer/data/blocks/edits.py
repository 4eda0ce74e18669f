"""Edit instructions: what a user asks to change in a scene, and the scene that results."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from services.trainer.data.blocks.language import noun_phrase, refer
from services.trainer.data.blocks.words import as_typed, cell_words, colour_noun, pick, place, shape_word, size_word
from services.trainer.data.blocks.world import (
    COLOURS,
    MAX_BLOCKS,
    SHAPES,
    SIZES,
    SPLITS,
    Block,
    Scene,
    Split,
)

EditKind = Literal["recolour", "reshape", "move", "add", "remove", "swap", "resize"]
KINDS: tuple[EditKind, ...] = get_args(EditKind)

_PATTERNS: dict[EditKind, tuple[str, ...]] = {
    "recolour": (
        "make {ref} {colour}",
        "change the {colour_noun} of {ref} to {colour}",
        "paint {ref} {colour}",
        "turn {ref} {colour}",
    ),
    "reshape": ("turn {ref} into a {shape}", "change {ref} to a {shape}", "make {ref} a {shape}"),
    "move": ("move {ref} to the {cell}", "put {ref} {place}"),
    "add": ("add a {phrase} {place}", "put a {phrase} {place}", "draw a {phrase} {place} too"),
    "remove": ("remove {ref}", "delete {ref}", "take {ref} away"),
    "swap": ("swap {ref} and {other}", "swap the places of {ref} and {other}"),
    "resize": ("make {ref} {size}", "make {ref} {comparative}", "change the size of {ref} to {size}"),
}


@dataclass(frozen=True)
class Edit:
    """An instruction, the scene it leads to and which kind of change it is."""

    instruction: str
    result: Scene
    kind: EditKind


@dataclass(frozen=True)
class Change:
    """The blocks a change takes away and those it puts in; paired by position where both exist."""

    before: tuple[Block, ...]
    after: tuple[Block, ...]


def edit(scene: Scene, rng: random.Random, split: Split, kind: EditKind | None = None) -> Edit:
    """A random edit of the scene that obeys the split; of a possible kind where none is given.

    In train the result has no held-out block; in held_out the scene or the result has one.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, must be one of {SPLITS}")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, must be one of {KINDS}")
    kinds = [kind] if kind is not None else rng.sample(KINDS, len(KINDS))
    for candidate in kinds:
        allowed = [change for change in _changes(scene, candidate, rng) if _is_allowed(scene, change, split)]
        if allowed:
            change = rng.choice(allowed)
            return Edit(_instruction(scene, change, candidate, rng), _result(scene, change), candidate)
    raise ValueError(f"kind is {kind!r}, must be possible in the scene {scene} within the split {split!r}")


def _result(scene: Scene, change: Change) -> Scene:
    return scene.with_change(change.before, change.after)


def _is_allowed(scene: Scene, change: Change, split: Split) -> bool:
    result = _result(scene, change)
    if result == scene:
        return False
    if split == "train":
        return not result.has_held_out
    return scene.has_held_out or result.has_held_out


def _changes(scene: Scene, kind: EditKind, rng: random.Random) -> Iterator[Change]:
    blocks = scene.blocks
    if kind == "add":
        if len(blocks) < MAX_BLOCKS:
            yield from _additions(scene, rng)
    elif kind == "remove":
        if len(blocks) > 1:
            yield from (Change((block,), ()) for block in blocks)
    elif kind == "swap":
        for first in blocks:
            for second in blocks:
                if first != second:
                    moved = replace(first, cell=second.cell), replace(second, cell=first.cell)
                    yield Change((first, second), moved)
    else:
        yield from (Change((block,), (new,)) for block in blocks for new in _variants(block, scene, kind))


def _variants(block: Block, scene: Scene, kind: EditKind) -> Iterator[Block]:
    if kind == "recolour":
        yield from (replace(block, colour=colour) for colour in COLOURS if colour != block.colour)
    elif kind == "reshape":
        yield from (replace(block, shape=shape) for shape in SHAPES if shape != block.shape)
    elif kind == "move":
        yield from (replace(block, cell=cell) for cell in scene.empty_cells)
    else:
        yield from (replace(block, size=size) for size in SIZES if size != block.size)


def _additions(scene: Scene, rng: random.Random) -> Iterator[Change]:
    # One shape and size by lot, all colours and cells: few enough to list, and in every empty cell
    # one colour is held out and five are not, so both splits always find one.
    shape, size = rng.choice(SHAPES), rng.choice(SIZES)
    for cell in scene.empty_cells:
        yield from (Change((), (Block(shape, colour, size, cell),)) for colour in COLOURS)


def _instruction(scene: Scene, change: Change, kind: EditKind, rng: random.Random) -> str:
    words: dict[str, str] = {"colour_noun": colour_noun(rng)}
    if change.before:
        words["ref"] = refer(change.before[0], scene, rng)
    if kind == "swap":
        words["other"] = refer(change.before[1], scene, rng)
    if change.after:
        new = change.after[0]
        words["colour"] = new.colour
        words["shape"] = shape_word(new.shape, rng)
        words["size"] = size_word(new.size, rng)
        words["comparative"] = "bigger" if new.size == "large" else "smaller"
        words["cell"] = cell_words(new.cell, rng)
        words["place"] = place(new.cell, rng)
        words["phrase"] = noun_phrase(new, rng, with_size=rng.random() < 0.7)
    text = pick(_PATTERNS[kind], rng).format(**words)
    return as_typed(f"{text}." if rng.random() < 0.4 else text, rng)
