"""Lists of what goes with what in a picture: as near as words come to looking a thing up without a question around."""

import random

from services.trainer.data.blocks.language import Attribute
from services.trainer.data.blocks.words import as_typed, colour_noun, pick
from services.trainer.data.blocks.world import Block, Scene

_NAMES: dict[Attribute, str] = {"shape": "shape", "size": "size", "cell": "position"}
_REQUESTS = ("list every {key} with its {value}.", "name each {key} and its {value}.", "{value} of each {key}?")
_KEYS: tuple[tuple[Attribute, ...], ...] = (("shape",), ("colour",), ("cell",), ("colour", "shape"))
_VALUES: tuple[Attribute, ...] = ("shape", "colour", "cell", "size")


def list_pairs(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """A request and its answer, such as "cross red, circle blue": in any order, and only what is unambiguous."""
    options = [(key, value) for key in _KEYS for value in _VALUES if value not in key and _unique(scene, key)]
    key, value = rng.choice(options)  # no two blocks share a cell, so there is always one
    blocks = _unique(scene, key)
    rng.shuffle(blocks)
    named = " ".join(_name(attribute, rng) for attribute in key)
    request = pick(_REQUESTS, rng).format(key=named, value=_name(value, rng))
    return as_typed(request, rng), ", ".join(f"{_told(block, key)} {_told(block, (value,))}" for block in blocks)


def _name(attribute: Attribute, rng: random.Random) -> str:
    return colour_noun(rng) if attribute == "colour" else _NAMES[attribute]


def _unique(scene: Scene, key: tuple[Attribute, ...]) -> list[Block]:
    told = [_told(block, key) for block in scene.blocks]
    return [block for block, words in zip(scene.blocks, told, strict=True) if told.count(words) == 1]


def _told(block: Block, attributes: tuple[Attribute, ...]) -> str:
    values = {"shape": block.shape, "colour": block.colour, "size": block.size, "cell": block.cell_name}
    return " ".join(values[attribute] for attribute in attributes)
