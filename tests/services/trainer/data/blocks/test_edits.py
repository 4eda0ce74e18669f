"""Edits do exactly what their instruction says and obey the split."""

import random
import re

import pytest

from services.trainer.data.blocks.edits import KINDS, Edit, EditKind, edit
from services.trainer.data.blocks.world import COLOURS, SHAPES, SPLITS, Block, Scene, sample_scene
from tests.services.trainer.data.blocks.phrase import normal, stated_blocks, the_one

NUM_BLOCKS: dict[EditKind, int] = {"add": 2, "remove": 2, "swap": 2}


def _edits(seed: int, kind: EditKind, count: int) -> list[tuple[Scene, Edit]]:
    rng = random.Random(seed)
    found: list[tuple[Scene, Edit]] = []
    while len(found) < count:
        scene = sample_scene(rng, "train", NUM_BLOCKS.get(kind, 1 + len(found) % 3))
        try:
            found.append((scene, edit(scene, rng, "train", kind)))
        except ValueError as refusal:  # a move or a swap may have no outcome that the split allows
            if "possible" not in str(refusal):
                raise
    return found


def _values(block: Block) -> tuple[str, str, str, int]:
    return block.shape, block.colour, block.size, block.cell


def _difference(scene: Scene, result: Scene) -> tuple[list[Block], list[Block]]:
    gone = [block for block in scene.blocks if block not in result.blocks]
    return gone, [block for block in result.blocks if block not in scene.blocks]


@pytest.mark.parametrize(("kind", "position"), [("reshape", 0), ("recolour", 1), ("resize", 2), ("move", 3)])
def test_a_change_of_one_attribute_changes_nothing_else(kind: EditKind, position: int) -> None:
    for scene, change in _edits(0, kind, 300):
        (gone,), (new,) = _difference(scene, change.result)
        differing = [index for index in range(4) if _values(gone)[index] != _values(new)[index]]
        assert differing == [position]
        assert change.result.background == scene.background
        text = normal(change.instruction)
        phrase, wish = _split(kind, text)
        assert the_one(phrase, scene) == gone
        assert wish == {"recolour": new.colour, "reshape": new.shape, "resize": new.size, "move": new.cell_name}[kind]


def _split(kind: EditKind, text: str) -> tuple[str, str]:
    # The reference and the wish of an instruction.
    patterns = {
        "recolour": (
            rf"(?:make|paint|turn) (.+) ({'|'.join(COLOURS)})$",
            rf"change the color of (.+) to ({'|'.join(COLOURS)})$",
        ),
        "reshape": (rf"(?:turn|change|make) (.+?)(?: into| to)? a ({'|'.join(SHAPES)})$",),
        "resize": (r"(?:make|change the size of) (.+?)(?: to)? (small|large|bigger|smaller)$",),
        "move": (r"(?:move|put) (.+) (?:to|at|in) the (.+)$",),
    }[kind]
    found = next(match for pattern in patterns if (match := re.match(pattern, text)))
    return found[1], {"bigger": "large", "smaller": "small"}.get(found[2], found[2])


def test_add_adds_the_stated_block() -> None:
    for scene, change in _edits(1, "add", 300):
        gone, (new,) = _difference(scene, change.result)
        ((shape, colour, size, cell),) = stated_blocks(change.instruction)
        assert not gone
        assert (shape, colour, cell) == (new.shape, new.colour, new.cell) and size in (None, new.size)


def test_remove_removes_the_named_block() -> None:
    for scene, change in _edits(2, "remove", 300):
        (gone,), new = _difference(scene, change.result)
        assert not new
        named = re.match(r"(?:remove|delete|take) (.+?)(?: away)?$", normal(change.instruction))
        assert named and the_one(named[1], scene) == gone


def test_swap_exchanges_two_places() -> None:
    for scene, change in _edits(3, "swap", 300):
        named = re.match(r"swap (?:the places of )?(.+) and (.+)$", normal(change.instruction))
        assert named
        first, second = the_one(named[1], scene), the_one(named[2], scene)
        assert _values(change.result.block_at(second.cell) or first)[:3] == _values(first)[:3]
        assert _values(change.result.block_at(first.cell) or second)[:3] == _values(second)[:3]
        assert change.result != scene


def test_edits_obey_their_split_and_always_change_something() -> None:
    rng = random.Random(4)
    seen: set[str] = set()
    for index in range(4000):
        split = SPLITS[index % 2]
        scene = sample_scene(rng, split)
        change = edit(scene, rng, split)
        seen.add(change.kind)
        assert change.result != scene
        if split == "train":
            assert not change.result.has_held_out
        else:
            assert scene.has_held_out or change.result.has_held_out
    assert seen == set(KINDS)


def test_held_out_edits_of_plain_scenes_lead_to_held_out_ones() -> None:
    rng = random.Random(5)
    for _ in range(300):
        assert edit(sample_scene(rng, "train"), rng, "held_out").result.has_held_out


def test_edits_are_reproducible_and_varied() -> None:
    scene = sample_scene(random.Random(6), "train", 2)
    assert edit(scene, random.Random(7), "train") == edit(scene, random.Random(7), "train")
    assert len({edit(scene, random.Random(seed), "train").instruction for seed in range(200)}) > 100


def test_impossible_edits_are_refused() -> None:
    single, full = (sample_scene(random.Random(8), "train", count) for count in (1, 3))
    for scene, kind in ((single, "remove"), (single, "swap"), (full, "add")):
        with pytest.raises(ValueError, match="possible"):
            edit(scene, random.Random(0), "train", kind)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind is 'melt'"):
        edit(single, random.Random(0), "train", "melt")  # type: ignore[arg-type]
