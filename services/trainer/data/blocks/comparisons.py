"""Yes-no questions that compare two blocks, or two counts."""

import random
from collections.abc import Callable
from itertools import permutations
from typing import TypeVar

from services.trainer.data.blocks.language import Attribute, can_refer, refer
from services.trainer.data.blocks.words import colour_noun, pick, plural, shape_word, thing_noun
from services.trainer.data.blocks.world import COLOURS, SHAPES, Block, Scene

_Value = TypeVar("_Value", bound=str)
_Answered = tuple[str, str]

# How often a "same" question is put to a scene whose pairs all differ. Blocks of a random scene seldom
# agree in colour or shape, so without this thinning nearly every such question would be answered no.
_DIFFERENT_COLOUR_SHARE = 0.14
_DIFFERENT_SHAPE_SHARE = 0.28


def compare(scene: Scene, rng: random.Random) -> _Answered | None:
    """A comparison question and its answer; None where the scene allows none."""
    forms: list[Callable[[Scene, random.Random], _Answered | None]] = [
        *[_relation] * 4,
        _more,
        _bigger,
        _same_colour,
        _same_shape,
    ]
    rng.shuffle(forms)
    for form in forms:
        found = form(scene, rng)
        if found is not None:
            return found
    return None


def _relation(scene: Scene, rng: random.Random) -> _Answered | None:
    pairs = _pairs(scene, "cell")
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    # (words, whether it holds) for each relation that is strict between the two, in either direction.
    relations: list[tuple[str, bool]] = []
    if first.column != second.column:
        relations.append(("left of", first.column < second.column))
        relations.append(("right of", first.column > second.column))
    if first.row != second.row:
        relations.append(("above", first.row < second.row))
        relations.append(("below", first.row > second.row))
    words, holds = rng.choice(relations)
    if words.endswith("of") and rng.random() < 0.5:
        words = f"to the {words}"
    text = f"is {_named(first, scene, rng, 'cell')} {words} {_named(second, scene, rng, 'cell')}?"
    return text, _yes_no(holds)


def _more(scene: Scene, rng: random.Random) -> _Answered:
    wants_yes = rng.random() < 0.5
    if rng.random() < 0.5:
        counts = {shape: sum(block.shape == shape for block in scene.blocks) for shape in SHAPES}
        first, second = rng.choice(_unequal(counts, wants_yes) or _unequal(counts, False))
        names = plural(shape_word(first, rng)), plural(shape_word(second, rng))
        holds = counts[first] > counts[second]
    else:
        tally = {colour: sum(block.colour == colour for block in scene.blocks) for colour in COLOURS}
        hue, other = rng.choice(_unequal(tally, wants_yes) or _unequal(tally, False))
        noun = plural(thing_noun(rng))
        names = f"{hue} {noun}", f"{other} {noun}"
        holds = tally[hue] > tally[other]
    return f"are there more {names[0]} than {names[1]}?", _yes_no(holds)


def _unequal(counts: dict[_Value, int], wants_more: bool) -> list[tuple[_Value, _Value]]:
    """Pairs of values that occur, the first more often than the second or not; a crowd may have as many of each."""
    pairs = permutations(counts, 2)
    return [(a, b) for a, b in pairs if counts[a] + counts[b] > 0 and (counts[a] > counts[b]) == wants_more]


def _bigger(scene: Scene, rng: random.Random) -> _Answered | None:
    pairs = [(first, second) for first, second in _pairs(scene, "size") if first.size != second.size]
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    word, holds = rng.choice((("bigger", first.size == "large"), ("smaller", first.size == "small")))
    text = f"is {_named(first, scene, rng, 'size')} {word} than {_named(second, scene, rng, 'size')}?"
    return text, _yes_no(holds)


def _same_colour(scene: Scene, rng: random.Random) -> _Answered | None:
    return _same(scene, rng, "colour", colour_noun(rng), _DIFFERENT_COLOUR_SHARE)


def _same_shape(scene: Scene, rng: random.Random) -> _Answered | None:
    return _same(scene, rng, "shape", "shape", _DIFFERENT_SHAPE_SHARE)


def _same(
    scene: Scene, rng: random.Random, attribute: Attribute, noun: str, different_share: float
) -> _Answered | None:
    pairs = _pairs(scene, attribute)
    alike = [(a, b) for a, b in pairs if getattr(a, attribute) == getattr(b, attribute)]
    different = [pair for pair in pairs if pair not in alike]
    if not pairs or (not alike and rng.random() >= different_share):
        return None
    # Where the scene has both, either answer is as likely, or any agreement would mean yes.
    is_same = bool(alike) and (not different or rng.random() < 0.5)
    first, second = (_named(block, scene, rng, attribute) for block in rng.choice(alike if is_same else different))
    text = pick(("are {} and {} the same {}?", "do {} and {} have the same {}?"), rng)
    return text.format(first, second, noun), _yes_no(is_same)


def _pairs(scene: Scene, hidden: Attribute) -> list[tuple[Block, Block]]:
    # Ordered pairs of blocks that can be named without giving the attribute in question away.
    nameable = [block for block in scene.blocks if can_refer(block, scene, frozenset({hidden}))]
    return list(permutations(nameable, 2))


def _named(block: Block, scene: Scene, rng: random.Random, hidden: Attribute) -> str:
    return refer(block, scene, rng, frozenset({hidden}))


def _yes_no(holds: bool) -> str:
    return "yes" if holds else "no"
