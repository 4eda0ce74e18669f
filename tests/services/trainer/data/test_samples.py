"""Conversations as prompt messages: pictures in their places, tasks named or left out, words for the LLM alone."""

import random
from typing import get_args

import numpy as np
import pytest

from services.trainer.config import Group
from services.trainer.data.blocks.conversations import Turn
from services.trainer.data.blocks.language import canonical_caption, dense_caption
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import Block, Scene
from services.trainer.data.samples import CROWD_MAKERS, MAKERS, Sample, make_sample, sample_from_turns, told_in_words
from triptych.prompts import ImageSlot, Picture, PromptTemplate, Special, Text

TEMPLATES = [
    PromptTemplate(system="", task_token_position=task, image_position=image)
    for task in ("sequence_start", "user_turn")
    for image in ("after_bos", "turn_start", "inline")
]
RED = Scene((Block("circle", "red", "small", 0),), "white")
BLUE = Scene((Block("square", "blue", "large", 8),), "white")
TURNS = (
    Turn("ask", "what is it?", "a circle", RED, None),
    Turn("edit", "make it a blue square", None, None, BLUE),
    Turn("ask", "what now?", "a square", None, None),
)


def many(kind: str, number: int = 60) -> list[Sample]:
    rng = random.Random(0)
    return [make_sample(kind, rng, "train", 4, 0.5) for _ in range(number)]


def text(sample: Sample, template: PromptTemplate) -> str:
    segments = told_in_words(sample, template)
    return "".join(s.text if isinstance(s, Text) else s.token for s in segments if not isinstance(s, ImageSlot))


def test_turns_become_messages() -> None:
    sample = sample_from_turns(TURNS, random.Random(0), 0.0)
    assert [m.role for m in sample.messages] == ["user", "assistant"] * 3
    assert [m.contents for m in sample.messages] == [
        (Picture(0), "what is it?"),
        ("a circle",),
        ("make it a blue square",),
        (Picture(1),),
        ("what now?",),
        ("a square",),
    ]
    assert sample.tasks == ("understand", "edit", "understand")
    assert (sample.scenes, sample.drawn) == ((RED, BLUE), (1,))


def test_the_model_sees_attached_pictures_and_what_it_drew() -> None:
    sample = sample_from_turns(TURNS, random.Random(0), 0.0)
    assert all(sample.shown(template) == [0, 1] for template in TEMPLATES)
    last_drawn = sample_from_turns(TURNS[:2], random.Random(0), 0.0)
    assert all(last_drawn.shown(template) == [0] for template in TEMPLATES)


@pytest.mark.parametrize("kind", MAKERS)
def test_pictures_are_counted_in_order(kind: str) -> None:
    for sample in many(kind):
        found = [c.index for m in sample.messages for c in m.contents if isinstance(c, Picture)]
        assert found == list(range(len(sample.scenes)))
        drawn = [
            c.index for m in sample.messages if m.role == "assistant" for c in m.contents if isinstance(c, Picture)
        ]
        assert tuple(drawn) == sample.drawn
        assert len(sample.tasks) * 2 == len(sample.messages)
        for template in TEMPLATES:
            assert sample.shown(template) == sorted(sample.shown(template))
            assert set(sample.shown(template)) >= set(range(len(sample.scenes))) - set(sample.drawn)


def test_kinds() -> None:
    assert all(not sample.drawn and len(sample.scenes) == 1 and len(sample.tasks) == 4 for sample in many("ask"))
    assert all(sample.drawn == (0,) and len(sample.tasks) == 1 for sample in many("draw"))
    assert all(sample.drawn == (1,) and len(sample.scenes) == 2 for sample in many("edit"))
    assert {len(sample.drawn) for sample in many("mixed", 300)} >= {0, 1, 2, 3}


def test_kinds_about_a_crowd() -> None:
    assert max(len(sample.scenes[0].blocks) for sample in many("quiz")) > 3
    for sample in (*many("quiz"), *many("pairs")):
        assert (len(sample.scenes), sample.drawn, len(sample.tasks)) == (1, (), 4)
        assert sample.messages[0].contents[0] == Picture(0)
    for kind, drawn in (("draw_crowd", (0,)), ("edit_crowd", (1,))):
        assert all(sample.drawn == drawn and len(sample.tasks) == 1 for sample in many(kind))
        assert max(len(sample.scenes[0].blocks) for sample in many(kind)) > 3
    for sample in many("survey"):
        assert sample.messages[1].contents == (dense_caption(sample.scenes[0]),)
        assert (sample.drawn, len(sample.messages)) == ((), 2)


def test_every_kind_a_recipe_may_name_is_made() -> None:
    assert {*MAKERS, *CROWD_MAKERS} == set(get_args(Group.model_fields["kind"].annotation))


def test_share_of_conversations_without_tasks() -> None:
    rng = random.Random(1)
    for share, least, most in ((0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)):
        samples = [make_sample("mixed", rng, "train", 2, share) for _ in range(200)]
        auto = [sample for sample in samples if "auto" in sample.tasks]
        assert least <= len(auto) <= most
        assert all(set(sample.tasks) == {"auto"} for sample in auto)


def test_an_edit_leaves_the_rest_of_its_picture() -> None:
    for sample in many("edit", 20):
        before, after = sample.pictures()
        assert np.array_equal(before, render(sample.scenes[0], sample.seed))
        changed = (before != after).any(axis=2).mean()
        assert 0 < changed < 0.5


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("template", TEMPLATES[:4:3], ids=["after_bos", "turn_start"])
def test_told_in_words(kind: str, template: PromptTemplate) -> None:
    for sample in many(kind, 30):
        segments = told_in_words(sample, template)
        assert not any(isinstance(segment, ImageSlot) for segment in segments)
        specials = {segment.token for segment in segments if isinstance(segment, Special)}
        assert not specials & set(template.image_tokens)
        told = text(sample, template)
        for scene in sample.scenes:
            assert canonical_caption(scene) in told
        trained = [s.text for s in segments if s.trained and isinstance(s, Text)]
        for index in sample.drawn:
            assert " " + canonical_caption(sample.scenes[index]) in trained
        shown = set(range(len(sample.scenes))) - set(sample.drawn)
        untrained = "".join(s.text for s in segments if not s.trained and isinstance(s, Text))
        assert all(canonical_caption(sample.scenes[index]) in untrained for index in shown)


def test_told_in_words_word_for_word() -> None:
    sample = sample_from_turns(TURNS, random.Random(0), 0.0)
    red, blue = canonical_caption(RED), canonical_caption(BLUE)
    assert text(sample, PromptTemplate(system="", task_token_position="user_turn", image_position="turn_start")) == (
        f"<s>USER:[I2T] {red}. what is it? ASSISTANT: a circle</s>"
        f"USER:[T2I] make it a blue square ASSISTANT: {blue}</s>"
        "USER:[I2T] what now? ASSISTANT: a square</s>"
    )


def test_same_seed_same_sample() -> None:
    assert many("mixed") == many("mixed")
