"""Conversations follow one evolving picture, attach at most one, and obey the split throughout."""

import random

import pytest

from services.trainer.data.blocks.conversations import Turn, ask_turns, converse, draw_turn, edit_turn
from services.trainer.data.blocks.language import canonical_caption
from services.trainer.data.blocks.world import SPLITS, Scene
from tests.services.trainer.data.blocks.phrase import stated_blocks


def _shown(turns: tuple[Turn, ...]) -> list[Scene]:
    # The picture on the table after each turn.
    current: Scene | None = None
    shown = []
    for turn in turns:
        current = turn.result or turn.picture or current
        assert current is not None
        shown.append(current)
    return shown


def test_turns_have_the_fields_of_their_task() -> None:
    rng = random.Random(0)
    tasks = set()
    for _ in range(800):
        turns = converse(rng, "train", 4)
        assert len(turns) == 4
        for index, turn in enumerate(turns):
            tasks.add(turn.task)
            assert turn.text
            assert (turn.answer is not None) == (turn.task == "ask")
            assert (turn.result is not None) == (turn.task != "ask")
            assert (turn.picture is not None) == (index == 0 and turn.task != "draw")
    assert tasks == {"draw", "edit", "ask"}


def test_conversations_obey_their_split() -> None:
    rng = random.Random(1)
    for index in range(1500):
        split = SPLITS[index % 2]
        turns = converse(rng, split, 5)
        shown = _shown(turns)
        before = turns[0].picture
        for turn, scene in zip(turns, shown, strict=True):
            if split == "train":
                assert not scene.has_held_out
            elif turn.task == "edit":
                assert scene.has_held_out or (before is not None and before.has_held_out)
            else:
                assert scene.has_held_out
            before = scene


def test_drawings_show_what_was_asked_for_and_descriptions_the_current_picture() -> None:
    rng = random.Random(2)
    described = 0
    for _ in range(800):
        turns = converse(rng, "train", 4)
        for turn, scene in zip(turns, _shown(turns), strict=True):
            if turn.task == "draw":
                assert {cell for *_, cell in stated_blocks(turn.text)} == {block.cell for block in scene.blocks}
            if turn.answer is not None and "background" in turn.answer:
                described += 1
                assert turn.answer == canonical_caption(scene)
    assert described > 50


def test_lone_turns() -> None:
    rng = random.Random(3)
    drawing, change, questions = draw_turn(rng, "train"), edit_turn(rng, "held_out"), ask_turns(rng, "train", 6)
    assert drawing.task == "draw" and drawing.picture is None and drawing.result is not None
    assert change.task == "edit" and change.picture is not None and change.result not in (None, change.picture)
    assert [turn.task for turn in questions] == ["ask"] * 6
    assert [turn.picture is not None for turn in questions] == [True] + [False] * 5


def test_conversations_are_reproducible() -> None:
    assert converse(random.Random(4), "train", 6) == converse(random.Random(4), "train", 6)


def test_at_least_one_turn_is_asked_for() -> None:
    with pytest.raises(ValueError, match="num_turns is 0"):
        converse(random.Random(0), "train", 0)
    with pytest.raises(ValueError, match="num_turns is 0"):
        ask_turns(random.Random(0), "train", 0)
