"""Questions about one picture, each with its one right, short answer."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from services.trainer.data.blocks.comparisons import compare
from services.trainer.data.blocks.existence import exists
from services.trainer.data.blocks.language import Attribute, can_refer, refer
from services.trainer.data.blocks.words import as_typed, colour_noun, pick, plural, shape_word, size_word, thing_noun
from services.trainer.data.blocks.world import COLOURS, SHAPES, SIZES, Scene

QuestionKind = Literal["count", "colour", "shape", "position", "size", "exists", "compare"]
KINDS: tuple[QuestionKind, ...] = get_args(QuestionKind)

# Distinct questions one can surely get about any scene.
MAX_QUESTIONS = 16


@dataclass(frozen=True)
class Question:
    """What the user asks, the right answer, and what kind of question it is."""

    text: str
    answer: str
    kind: QuestionKind


def ask(scene: Scene, rng: random.Random, kind: QuestionKind | None = None) -> Question:
    """A random question about the scene, of a possible kind where none is given."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, must be one of {KINDS}")
    kinds = [kind] if kind is not None else rng.sample(KINDS, len(KINDS))
    for candidate in kinds:
        found = _ASKERS[candidate](scene, rng)
        if found is not None:
            text, answer = found
            return Question(as_typed(text, rng), answer, candidate)
    raise ValueError(f"kind is {kind!r}, must be possible in the scene {scene}")


def ask_many(scene: Scene, rng: random.Random, n: int) -> tuple[Question, ...]:
    """`n` questions about the scene with different wordings."""
    if not 1 <= n <= MAX_QUESTIONS:
        raise ValueError(f"n is {n}, must be in 1..{MAX_QUESTIONS}")
    found: dict[str, Question] = {}
    while len(found) < n:
        question = ask(scene, rng)
        found.setdefault(_wording(question.text), question)
    return tuple(found.values())


def _wording(text: str) -> str:
    return text.lower().rstrip("?")


def _count(scene: Scene, rng: random.Random) -> tuple[str, str]:
    form = rng.choices(("all", "colour", "shape", "size"), (2, 4, 4, 1))[0]
    blocks = scene.blocks
    if form == "colour":
        colour = rng.choice([block.colour for block in blocks] if rng.random() < 0.6 else COLOURS)
        named, number = f"{colour} {plural(thing_noun(rng))}", sum(block.colour == colour for block in blocks)
    elif form == "shape":
        shape = rng.choice([block.shape for block in blocks] if rng.random() < 0.6 else SHAPES)
        named, number = plural(shape_word(shape, rng)), sum(block.shape == shape for block in blocks)
    elif form == "size":
        size = rng.choice(SIZES)
        named, number = f"{size_word(size, rng)} {plural(thing_noun(rng))}", sum(block.size == size for block in blocks)
    else:
        named, number = plural(thing_noun(rng)), len(blocks)
    text = pick(("how many {} are there?", "how many {} are in the picture?", "how many {} do you see?"), rng)
    return text.format(named), str(number)


def _reference(scene: Scene, rng: random.Random, hidden: Attribute) -> tuple[str, dict[str, str]] | None:
    # A reference to a random block, with the block's own values as the possible answers.
    concealed = frozenset({hidden})
    candidates = [block for block in scene.blocks if can_refer(block, scene, concealed)]
    if not candidates:
        return None
    block = rng.choice(candidates)
    values = {"shape": block.shape, "colour": block.colour, "size": block.size, "cell": block.cell_name}
    return refer(block, scene, rng, concealed), values


def _asker(attribute: Attribute, patterns: tuple[str, ...]) -> Callable[[Scene, random.Random], tuple[str, str] | None]:
    def asker(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
        found = _reference(scene, rng, attribute)
        if found is None:
            return None
        reference, values = found
        text = pick(patterns, rng).format(ref=reference, colour_noun=colour_noun(rng))
        return text, values[attribute]

    return asker


_PATTERNS: dict[Attribute, tuple[str, ...]] = {
    "shape": ("what shape is {ref}?", "which shape is {ref}?", "what is the shape of {ref}?"),
    "colour": ("what {colour_noun} is {ref}?", "which {colour_noun} is {ref}?", "what is the {colour_noun} of {ref}?"),
    "size": ("what size is {ref}?", "is {ref} small or large?", "what is the size of {ref}?"),
    "cell": ("where is {ref}?", "where is {ref} in the picture?", "what is the position of {ref}?"),
}

_ASKERS: dict[QuestionKind, Callable[[Scene, random.Random], tuple[str, str] | None]] = {
    "count": _count,
    "colour": _asker("colour", _PATTERNS["colour"]),
    "shape": _asker("shape", _PATTERNS["shape"]),
    "position": _asker("cell", _PATTERNS["cell"]),
    "size": _asker("size", _PATTERNS["size"]),
    "exists": exists,
    "compare": compare,
}
