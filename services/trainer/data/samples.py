"""Blocks conversations as prompt messages: the bridge from the world to what a model reads."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.blocks.conversations import Turn, ask_turns, converse, draw_turn, edit_turn
from services.trainer.data.blocks.edits import edit
from services.trainer.data.blocks.language import canonical_caption, draw_request, survey_request
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
    if kind not in MAKERS:
        return _about_a_crowd(kind, rng, split, num_turns, auto_task_share)
    return sample_from_turns(MAKERS[kind](rng, split, num_turns), rng, auto_task_share)


def _about_a_crowd(kind: str, rng: random.Random, split: Split, num_turns: int, auto_task_share: float) -> Sample:
    picture = crowd(rng, split, rng.random())
    if kind == "survey":
        turns: tuple[Turn, ...] = (Turn("ask", survey_request(rng), picture.caption, picture.scene, None),)
    elif kind == "quiz":
        questions = ask_many(picture.scene, rng, num_turns)
        shown = (picture.scene, *(None for _ in questions[1:]))
        turns = tuple(Turn("ask", q.text, q.answer, scene, None) for q, scene in zip(questions, shown, strict=True))
    elif kind == "pairs":
        lists = [list_pairs(picture.scene, rng) for _ in range(num_turns)]
        shown = (picture.scene, *(None for _ in lists[1:]))
        turns = tuple(Turn("ask", text, told, scene, None) for (text, told), scene in zip(lists, shown, strict=True))
    elif kind == "draw_crowd":
        turns = (Turn("draw", draw_request(picture.scene, rng), None, None, picture.scene),)
    else:
        change = edit(picture.scene, rng, split)
        turns = (Turn("edit", change.instruction, None, picture.scene, change.result),)
    return replace(sample_from_turns(turns, rng, auto_task_share), seed=picture.seed)


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
