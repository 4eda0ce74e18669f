"""Lists of pairs: right, unambiguous, complete, in every order."""

import random
import re

from services.trainer.data.blocks.pairs import list_pairs
from services.trainer.data.blocks.world import Block, Scene
from services.trainer.data.crowds import crowd
from tests.services.trainer.data.blocks.phrase import normal

NAMES = {"shape": "shape", "size": "size", "position": "cell_name", "color": "colour", "colour": "colour"}


def named(text: str) -> tuple[list[str], str]:
    """The attributes of the key, and that of the value."""
    words = [NAMES[word] for word in re.findall("|".join(NAMES), normal(text))]
    return (words[1:], words[0]) if " of each " in normal(text) else (words[:-1], words[-1])


def test_every_pair_is_right_and_every_block_that_can_be_named_is_there() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        scene = crowd(rng, "train", rng.random()).scene
        request, answer = list_pairs(scene, rng)
        keys, value = named(request)
        told = [tuple(str(getattr(block, attribute)) for attribute in keys) for block in scene.blocks]
        wanted = {
            f"{' '.join(key)} {getattr(block, value)}"
            for key, block in zip(told, scene.blocks, strict=True)
            if told.count(key) == 1
        }
        assert set(answer.split(", ")) == wanted, (request, answer, scene)
        assert answer.count(", ") == len(wanted) - 1


def test_any_order() -> None:
    scene = Scene((Block("circle", "red", "small", 0), Block("square", "blue", "large", 8)), "white")
    answers = {list_pairs(scene, random.Random(seed))[1] for seed in range(300)}
    assert {"circle red, square blue", "square blue, circle red"} <= answers


def test_where_nothing_but_the_cell_tells_blocks_apart() -> None:
    scene = Scene(tuple(Block("circle", "red", "small", cell) for cell in range(4)), "white")
    for seed in range(50):
        keys, _ = named(list_pairs(scene, random.Random(seed))[0])
        assert keys == ["cell_name"]
