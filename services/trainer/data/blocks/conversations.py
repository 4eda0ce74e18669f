"""Conversations that mix drawing, editing and asking over one evolving picture."""

import random
from dataclasses import dataclass
from typing import Literal

from services.trainer.data.blocks.edits import edit
from services.trainer.data.blocks.language import canonical_caption, describe_request, draw_request
from services.trainer.data.blocks.questions import ask
from services.trainer.data.blocks.world import Scene, Split, obeys, sample_scene

Task = Literal["draw", "edit", "ask"]

_ATTACH_SHARE = 0.5
_DESCRIBE_SHARE = 0.15
_REDRAW_SHARE = 0.1
_ASK_SHARE = 0.5


@dataclass(frozen=True)
class Turn:
    """One exchange: what the user writes and attaches, and what the assistant answers or draws."""

    task: Task
    text: str
    answer: str | None
    picture: Scene | None
    result: Scene | None


def converse(rng: random.Random, split: Split, num_turns: int) -> tuple[Turn, ...]:
    """A conversation of exactly `num_turns` turns about one picture at a time.

    It begins with a drawing or with the one attached picture. In held_out, a picture without a
    held-out block is never asked about; the turn after it edits it back or draws anew.
    """
    if num_turns < 1:
        raise ValueError(f"num_turns is {num_turns}, must be at least 1")
    scene = sample_scene(rng, split)
    attached = rng.random() < _ATTACH_SHARE
    turns = [_continue(scene, rng, split, (), attached=True) if attached else _draw(scene, rng)]
    for _ in range(num_turns - 1):
        scene = turns[-1].result or scene
        if rng.random() < _REDRAW_SHARE:
            turns.append(_draw(sample_scene(rng, split), rng))
        else:
            turns.append(_continue(scene, rng, split, tuple(turn.text for turn in turns), attached=False))
    return tuple(turns)


def draw_turn(rng: random.Random, split: Split) -> Turn:
    """A lone request to draw a scene."""
    return _draw(sample_scene(rng, split), rng)


def edit_turn(rng: random.Random, split: Split) -> Turn:
    """A lone request to edit an attached picture."""
    scene = sample_scene(rng, split)
    return _edit(scene, rng, split, attached=True)


def ask_turns(rng: random.Random, split: Split, num_turns: int) -> tuple[Turn, ...]:
    """Different questions about one picture, attached in the first turn."""
    if num_turns < 1:
        raise ValueError(f"num_turns is {num_turns}, must be at least 1")
    scene = sample_scene(rng, split)
    turns: list[Turn] = []
    for index in range(num_turns):
        turns.append(_ask(scene, rng, tuple(turn.text for turn in turns), attached=index == 0))
    return tuple(turns)


def _continue(scene: Scene, rng: random.Random, split: Split, said: tuple[str, ...], attached: bool) -> Turn:
    if rng.random() < _ASK_SHARE and obeys(scene, split):
        return _ask(scene, rng, said, attached)
    return _edit(scene, rng, split, attached)


def _draw(scene: Scene, rng: random.Random) -> Turn:
    return Turn("draw", draw_request(scene, rng), None, None, scene)


def _edit(scene: Scene, rng: random.Random, split: Split, attached: bool) -> Turn:
    change = edit(scene, rng, split)
    return Turn("edit", change.instruction, None, scene if attached else None, change.result)


def _ask(scene: Scene, rng: random.Random, said: tuple[str, ...], attached: bool) -> Turn:
    picture = scene if attached else None
    if rng.random() < _DESCRIBE_SHARE:
        return Turn("ask", describe_request(rng), canonical_caption(scene), picture, None)
    question = ask(scene, rng)
    # A question asked before is asked anew in other words; after many tries it may well repeat.
    for _ in range(4):
        if question.text not in said:
            break
        question = ask(scene, rng)
    return Turn("ask", question.text, question.answer, picture, None)
