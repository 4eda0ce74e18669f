"""Blocks conversations as prompt messages: the bridge from the world to what a model reads."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.blocks.conversations import Turn, ask_turns, converse, draw_turn, edit_turn
from services.trainer.data.blocks.edits import edit
from services.trainer.data.blocks.language import canonical_caption, dense_caption, draw_request, survey_request
from services.trainer.data.blocks.pairs import list_pairs
from services.trainer.data.blocks.questions import ask_many
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import Scene, Split
from services.trainer.data.crowds import crowd
from triptych.prompts import ImageSlot, Message, Picture, PromptTemplate, Segment, Task, Text

TASKS: dict[str, Task] = {"ask": "understand", "draw": "generate", "edit": "edit"}
MAKERS: dict[str, Callable[[random.Random, Split, int], tuple[Turn, ...]]] = {
    "ask": ask_turns,
    "draw": lambda rng, split, _: (draw_turn(rng, split),),
    "edit": lambda rng, split, _: (edit_turn(rng, split),),
    "mixed": converse,
}


@dataclass(frozen=True)
class Sample:
    """A conversation ready to be laid out. `scenes[i]` is the i-th picture; `drawn` are those the assistant makes."""

    messages: tuple[Message, ...]
    tasks: tuple[Task, ...]
    scenes: tuple[Scene, ...]
    drawn: tuple[int, ...]
    seed: int

    def segments(self, template: PromptTemplate) -> list[Segment]:
        return template.segments(list(self.messages), list(self.tasks))

    def shown(self, template: PromptTemplate) -> list[int]:
        """The pictures the model sees, in the order of their slots."""
        return [s.index for s in self.segments(template) if isinstance(s, ImageSlot)]

    def targets(self) -> list[tuple[Scene, int]]:
        """The scenes the assistant draws, and the seed to render them with."""
        return [(self.scenes[i], self.seed) for i in self.drawn]

    def pictures(self) -> list[NDArray[np.uint8]]:
        """All pictures, (64, 64, 3) each. One seed: an edit leaves the rest of its picture untouched."""
        return [render(scene, self.seed) for scene in self.scenes]


def make_sample(kind: str, rng: random.Random, split: Split, num_turns: int, auto_task_share: float) -> Sample:
    """One conversation of a kind: ask, draw, edit, mixed; or about a crowded picture: quiz (questions), pairs (lists),
    survey (telling all of it), draw_crowd, edit_crowd."""
    if kind in MAKERS:
        return sample_from_turns(MAKERS[kind](rng, split, num_turns), rng, auto_task_share)
    picture = crowd(rng, split, rng.random())
    turns = CROWD_MAKERS[kind](picture.scene, rng, split, num_turns)
    return replace(sample_from_turns(turns, rng, auto_task_share), seed=picture.seed)


def _quiz(scene: Scene, rng: random.Random, _: Split, num_turns: int) -> tuple[Turn, ...]:
    return _about(scene, [(question.text, question.answer) for question in ask_many(scene, rng, num_turns)])


def _pairs(scene: Scene, rng: random.Random, _: Split, num_turns: int) -> tuple[Turn, ...]:
    return _about(scene, [list_pairs(scene, rng) for _ in range(num_turns)])


def _survey(scene: Scene, rng: random.Random, _: Split, __: int) -> tuple[Turn, ...]:
    return _about(scene, [(survey_request(rng), dense_caption(scene))])


def _draw_crowd(scene: Scene, rng: random.Random, _: Split, __: int) -> tuple[Turn, ...]:
    return (Turn("draw", draw_request(scene, rng), None, None, scene),)


def _edit_crowd(scene: Scene, rng: random.Random, split: Split, _: int) -> tuple[Turn, ...]:
    change = edit(scene, rng, split)
    return (Turn("edit", change.instruction, None, scene, change.result),)


def _about(scene: Scene, told: list[tuple[str, str]]) -> tuple[Turn, ...]:
    """Texts and answers, the picture attached to the first."""
    return tuple(Turn("ask", text, said, None if index else scene, None) for index, (text, said) in enumerate(told))


CROWD_MAKERS: dict[str, Callable[[Scene, random.Random, Split, int], tuple[Turn, ...]]] = {
    "quiz": _quiz,
    "pairs": _pairs,
    "survey": _survey,
    "draw_crowd": _draw_crowd,
    "edit_crowd": _edit_crowd,
}


def sample_from_turns(turns: tuple[Turn, ...], rng: random.Random, auto_task_share: float) -> Sample:
    """Lays turns out as messages; with probability `auto_task_share` no turn names its task."""
    auto = rng.random() < auto_task_share
    messages: list[Message] = []
    tasks: list[Task] = []
    scenes: list[Scene] = []
    drawn: list[int] = []
    for turn in turns:
        contents: tuple[str | Picture, ...] = (turn.text,)
        if turn.picture is not None:
            contents = (Picture(len(scenes)), turn.text)
            scenes.append(turn.picture)
        messages.append(Message("user", contents))
        tasks.append("auto" if auto else TASKS[turn.task])
        if turn.result is not None:
            drawn.append(len(scenes))
            messages.append(Message("assistant", (Picture(len(scenes)),)))
            scenes.append(turn.result)
        else:
            assert turn.answer is not None
            messages.append(Message("assistant", (turn.answer,)))
    return Sample(tuple(messages), tuple(tasks), tuple(scenes), tuple(drawn), rng.getrandbits(31))


def told_in_words(sample: Sample, template: PromptTemplate) -> list[Segment]:
    """The same conversation without pictures: a picture to look at becomes its caption, one to draw likewise."""
    captions = [canonical_caption(scene) for scene in sample.scenes]
    messages = [
        Message(
            m.role,
            tuple(captions[c.index] if m.role == "assistant" and isinstance(c, Picture) else c for c in m.contents),
        )
        for m in sample.messages
    ]
    segments = template.segments(messages, list(sample.tasks))
    return [Text(" " + captions[s.index] + ".") if isinstance(s, ImageSlot) else s for s in segments]
