"""Captions and requests say what they must and nothing wrong; references are unambiguous."""

import random
import re

import pytest

from services.trainer.data.blocks.conversations import converse
from services.trainer.data.blocks.language import (
    can_refer,
    canonical_caption,
    caption,
    describe_request,
    draw_request,
    refer,
)
from services.trainer.data.blocks.world import BACKGROUNDS, SPLITS, Block, Scene, sample_scene
from tests.services.trainer.data.blocks.phrase import normal, stated_blocks, the_one

SCENE = Scene(
    (
        Block("circle", "red", "large", 0),
        Block("square", "blue", "small", 4),
        Block("cross", "green", "large", 8),
    ),
    "grey",
)


def _check(text: str, scene: Scene) -> None:
    stated = stated_blocks(text)
    assert sorted((s, c, cell) for s, c, _, cell in stated) == sorted((b.shape, b.colour, b.cell) for b in scene.blocks)
    for _, _, size, cell in stated:
        block = scene.block_at(cell)
        assert block is not None and size in (None, block.size)
    tones = [tone for tone in BACKGROUNDS if tone in normal(text).split()]
    assert tones in ([], [scene.background])


def test_canonical_caption() -> None:
    assert canonical_caption(SCENE) == (
        "a large red circle at the top left, a small blue square in the center "
        "and a large green cross at the bottom right, on a grey background"
    )


def test_canonical_captions_tell_scenes_apart() -> None:
    rng = random.Random(0)
    scenes = {sample_scene(rng, "train") for _ in range(2000)}
    assert len({canonical_caption(scene) for scene in scenes}) == len(scenes)


@pytest.mark.parametrize("write", [caption, draw_request])
def test_captions_state_every_block_and_nothing_wrong(write: object) -> None:
    rng = random.Random(1)
    assert callable(write)
    for _ in range(1500):
        scene = sample_scene(rng, "train")
        _check(write(scene, rng), scene)


def test_captions_vary_and_sometimes_leave_size_and_background_out() -> None:
    rng = random.Random(2)
    texts = [caption(SCENE, rng) for _ in range(300)]
    assert len(set(texts)) > 150
    assert any(all(size is None for _, _, size, _ in stated_blocks(text)) for text in texts)
    assert any("background" in text for text in texts) and any("background" not in text for text in texts)


def test_language_is_reproducible() -> None:
    for write in (caption, draw_request):
        assert write(SCENE, random.Random(3)) == write(SCENE, random.Random(3))
    assert describe_request(random.Random(3)) == describe_request(random.Random(3))


def test_references_single_out_their_block() -> None:
    rng = random.Random(4)
    for _ in range(3000):
        scene = sample_scene(rng, "train")
        block = rng.choice(scene.blocks)
        text = refer(block, scene, rng)
        assert the_one(normal(text), scene) == block
        assert text != "it" or len(scene.blocks) == 1


def test_references_keep_hidden_attributes_to_themselves() -> None:
    rng = random.Random(5)
    for _ in range(200):
        text = normal(refer(SCENE.blocks[0], SCENE, rng, frozenset({"colour", "cell"})))
        assert "red" not in text and "left" not in text


def test_twins_cannot_be_told_apart_without_their_cells() -> None:
    twins = Scene((Block("circle", "red", "large", 0), Block("circle", "red", "large", 1)), "white")
    assert not can_refer(twins.blocks[0], twins, frozenset({"cell"}))
    with pytest.raises(ValueError, match="differ"):
        refer(twins.blocks[0], twins, random.Random(0), frozenset({"cell"}))
    with pytest.raises(ValueError, match="in the scene"):
        refer(SCENE.blocks[1], twins, random.Random(0))


def test_the_vocabulary_is_small_and_every_word_common() -> None:
    rng = random.Random(6)
    counts: dict[str, int] = {}
    for index in range(4000):
        for turn in converse(rng, SPLITS[index % 2], 4):
            for word in re.findall(r"\w+", f"{turn.text} {turn.answer or ''}".lower()):
                counts[word] = counts.get(word, 0) + 1
    assert len(counts) < 250
    assert min(counts.values()) >= 8
