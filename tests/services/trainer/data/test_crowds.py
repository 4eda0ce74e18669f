"""Crowded pictures: as full as asked, split obeyed everywhere, nothing painted over a neighbour, told cell by cell."""

import random

import numpy as np
import pytest

from services.trainer.data.blocks.reader import read
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.splits import is_held_out
from services.trainer.data.blocks.world import MAX_BLOCKS, Scene
from services.trainer.data.crowds import Crowd, crowd


def many(filled: float, number: int = 40) -> list[Crowd]:
    rng = random.Random(0)
    return [crowd(rng, "train", filled) for _ in range(number)]


def test_as_full_as_asked() -> None:
    assert {len(c.scene.blocks) for c in many(0.0)} == set(range(1, MAX_BLOCKS + 1))
    assert {len(c.scene.blocks) for c in many(1.0)} == {9}
    assert 4 < np.mean([len(c.scene.blocks) for c in many(0.5, 200)]) < 7


def test_every_block_obeys_the_split() -> None:
    assert not any(is_held_out(block) for c in many(1.0) for block in c.scene.blocks)
    rng = random.Random(1)
    assert all(crowd(rng, "held_out", 0.5).scene.has_held_out for _ in range(20))


@pytest.mark.parametrize("filled", [0.3, 1.0])
def test_blocks_stay_in_their_cells(filled: float) -> None:
    """Each cell looks as it would with its block alone; so the reader finds them all."""
    for c in many(filled, 20):
        assert read(c.picture).blocks == c.scene.blocks
        alone = [render(Scene((block,), c.scene.background), c.seed) for block in c.scene.blocks]
        painted = np.stack([(c.picture == picture).all(axis=2) for picture in alone])
        assert painted.any(axis=0).all()


def test_captions_tell_every_cell() -> None:
    for c in many(0.5, 20):
        told = c.caption.removesuffix(f" on a {c.scene.background} background").split(" ")
        words = [" ".join(told[start : start + 3]) for start in range(0, 27, 3)]
        assert len(told) == 27
        for cell, said in enumerate(words):
            block = c.scene.block_at(cell)
            assert said == (f"{block.size} {block.colour} {block.shape}" if block else "no block there")
