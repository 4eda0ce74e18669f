"""Every answer agrees with an independent evaluator; yes and no are balanced."""

import random
import re
from collections import Counter

import pytest

from services.trainer.data.blocks.questions import KINDS, Question, ask, ask_many
from services.trainer.data.blocks.world import CELLS, COLOURS, SHAPES, SIZES, SPLITS, Block, Scene, sample_scene
from services.trainer.data.crowds import crowd
from tests.services.trainer.data.blocks.phrase import matches, normal, the_one


def _answer(question: Question, scene: Scene) -> str:
    # The answer worked out from the question's words alone.
    text = normal(question.text)
    if question.kind == "count":
        named = re.match(r"how many (.+?) (?:are there|are in the picture|do you see)$", text)
        assert named
        return str(len(matches(named[1], scene)))
    if question.kind == "exists":
        named = re.match(r"(?:is there|do you see) (.+)$", text)
        assert named
        return _yes_no(len(matches(named[1], scene)) > 0)
    if question.kind == "compare":
        return _comparison(text, scene)
    attribute = {"colour": "colour", "shape": "shape", "size": "size", "position": "cell_name"}[question.kind]
    return str(getattr(the_one(_asked_about(text), scene), attribute))


def _asked_about(text: str) -> str:
    patterns = (
        r"(?:what|which) (?:color|shape|size) is (.+)$",
        r"what is the (?:color|shape|size|position) of (.+)$",
        r"is (.+) small or large$",
        r"where is (.+?)(?: in the picture)?$",
    )
    named = next(match for pattern in patterns if (match := re.match(pattern, text)))
    return named[1]


def _comparison(text: str, scene: Scene) -> str:
    if named := re.match(r"are there more (.+) than (.+)$", text):
        return _yes_no(len(matches(named[1], scene)) > len(matches(named[2], scene)))
    if named := re.match(r"(?:are|do) (.+) and (.+?)(?: have)? the same (color|shape)$", text):
        first, second = the_one(named[1], scene), the_one(named[2], scene)
        same = first.colour == second.colour if named[3] == "color" else first.shape == second.shape
        return _yes_no(same)
    named = re.match(r"is (.+?) (?:to the )?(left of|right of|above|below|bigger than|smaller than) (.+)$", text)
    assert named, text
    first, second = the_one(named[1], scene), the_one(named[3], scene)
    assert _is_strict(named[2], first, second)
    return _yes_no(
        {
            "left of": first.column < second.column,
            "right of": first.column > second.column,
            "above": first.row < second.row,
            "below": first.row > second.row,
            "bigger than": first.size == "large",
            "smaller than": first.size == "small",
        }[named[2]]
    )


def _is_strict(relation: str, first: Block, second: Block) -> bool:
    if relation in ("left of", "right of"):
        return first.column != second.column
    return first.row != second.row if relation in ("above", "below") else first.size != second.size


def _yes_no(holds: bool) -> str:
    return "yes" if holds else "no"


def test_every_answer_is_right() -> None:
    rng = random.Random(0)
    for index in range(12000):
        scene = sample_scene(rng, SPLITS[index % 2])
        question = ask(scene, rng)
        assert question.answer == _answer(question, scene), (question, scene)


def test_answers_about_crowds_are_right() -> None:
    """Also where every colour and shape occurs, or as many of one as of another."""
    rng = random.Random(5)
    for index in range(1500):
        scene = crowd(rng, SPLITS[index % 2], rng.choice((0.3, 0.7, 1.0))).scene
        question = ask(scene, rng)
        assert question.answer == _answer(question, scene), (question, scene)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_come_from_their_kind(kind: str) -> None:
    allowed = {
        "count": {"0", "1", "2", "3"},
        "colour": set(COLOURS),
        "shape": set(SHAPES),
        "size": set(SIZES),
        "position": set(CELLS),
        "exists": {"yes", "no"},
        "compare": {"yes", "no"},
    }[kind]
    rng = random.Random(1)
    scenes = [sample_scene(rng, "train", 1) for _ in range(400)] + [sample_scene(rng, "train") for _ in range(400)]
    answers: set[str] = set()
    for scene in scenes:
        if kind != "position" or len({(b.shape, b.colour, b.size) for b in scene.blocks}) > 1:
            question = ask(scene, rng, kind)  # type: ignore[arg-type]
            assert question.kind == kind
            answers.add(question.answer)
    assert answers == allowed


@pytest.mark.parametrize("kind", ["exists", "compare"])
def test_yes_and_no_are_balanced(kind: str) -> None:
    rng = random.Random(2)
    by_form: dict[str, Counter[str]] = {}
    for _ in range(6000):
        question = ask(sample_scene(rng, "train"), rng, kind)  # type: ignore[arg-type]
        words = normal(question.text)
        form = next((w for w in ("more", "same color", "same shape", "bigger", "left", "above") if w in words), "")
        by_form.setdefault(form if kind == "compare" else "", Counter())[question.answer] += 1
    for counts in by_form.values():
        assert 0.35 < counts["yes"] / counts.total() < 0.65
    total = sum(by_form.values(), Counter())
    assert 0.46 < total["yes"] / total.total() < 0.54


def test_most_negatives_are_near_misses() -> None:
    rng = random.Random(3)
    near = far = 0
    for _ in range(3000):
        scene = sample_scene(rng, "train", 3)
        question = ask(scene, rng, "exists")
        words = normal(question.text).split()
        shape = next((word for word in words if word in SHAPES), None)
        colour = next((word for word in words if word in COLOURS), None)
        if question.answer == "no" and shape and colour:
            present = any(b.shape == shape for b in scene.blocks) and any(b.colour == colour for b in scene.blocks)
            near, far = near + present, far + (not present)
    assert near > far


def test_ask_many_gives_different_questions() -> None:
    rng = random.Random(4)
    for count in (1, 5, 16):
        scene = sample_scene(rng, "train", 1)
        questions = ask_many(scene, rng, count)
        assert len({question.text.lower().rstrip("?") for question in questions}) == count
        assert all(question.answer == _answer(question, scene) for question in questions)


def test_questions_are_reproducible() -> None:
    scene = sample_scene(random.Random(5), "train")
    assert ask_many(scene, random.Random(6), 8) == ask_many(scene, random.Random(6), 8)


def test_impossible_wishes_are_refused() -> None:
    twins = Scene((Block("circle", "red", "large", 0), Block("circle", "red", "large", 1)), "white")
    with pytest.raises(ValueError, match="possible"):
        ask(twins, random.Random(0), "position")
    with pytest.raises(ValueError, match="kind is 'why'"):
        ask(twins, random.Random(0), "why")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n is 0"):
        ask_many(twins, random.Random(0), 0)
