"""The held-out combinations are a sixth of all, spread evenly, and never sampled in training."""

import random
from collections import Counter

from services.trainer.data.blocks.splits import is_held_out
from services.trainer.data.blocks.world import CELLS, COLOURS, SHAPES, Block, sample_scene

COMBINATIONS = [Block(s, c, "small", cell) for s in SHAPES for c in COLOURS for cell in range(len(CELLS))]
HELD_OUT = [block for block in COMBINATIONS if is_held_out(block)]


def test_a_sixth_is_held_out() -> None:
    assert len(HELD_OUT) == len(COMBINATIONS) / 6


def test_every_single_value_loses_its_even_share() -> None:
    assert set(Counter(block.shape for block in HELD_OUT).values()) == {9}
    assert set(Counter(block.colour for block in HELD_OUT).values()) == {6}
    assert Counter(block.cell for block in HELD_OUT) == dict.fromkeys(range(9), 4)


def test_every_pair_keeps_most_of_its_combinations() -> None:
    assert set(Counter((block.shape, block.colour) for block in HELD_OUT).values()) == {1, 2}
    assert set(Counter((block.shape, block.cell) for block in HELD_OUT).values()) == {1}
    assert set(Counter((block.colour, block.cell) for block in HELD_OUT).values()) == {1}


def test_size_does_not_matter() -> None:
    for block in COMBINATIONS:
        assert is_held_out(block) == is_held_out(Block(block.shape, block.colour, "large", block.cell))


def test_scenes_obey_their_split() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        assert not any(is_held_out(block) for block in sample_scene(rng, "train").blocks)
        assert any(is_held_out(block) for block in sample_scene(rng, "held_out").blocks)


def test_training_sees_all_that_is_not_held_out() -> None:
    rng = random.Random(2)
    seen = {(b.shape, b.colour, b.cell) for _ in range(3000) for b in sample_scene(rng, "train").blocks}
    assert len(seen) == len(COMBINATIONS) - len(HELD_OUT)
