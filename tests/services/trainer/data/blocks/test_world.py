"""The world refuses malformed blocks and scenes, and samples reproducibly."""

import random

import pytest

from services.trainer.data.blocks.world import Block, Scene, sample_scene

RED = Block("circle", "red", "large", 4)
BLUE = Block("square", "blue", "small", 0)


def test_blocks_are_kept_in_cell_order() -> None:
    assert Scene((RED, BLUE), "grey").blocks == (BLUE, RED)
    assert Scene((RED, BLUE), "grey") == Scene((BLUE, RED), "grey")


def test_block_properties() -> None:
    block = Block("cross", "cyan", "small", 5)
    assert (block.row, block.column, block.cell_name) == (1, 2, "center right")


def test_scene_look_ups() -> None:
    scene = Scene((RED, BLUE), "grey")
    assert scene.block_at(4) == RED
    assert scene.block_at(8) is None
    assert scene.empty_cells == (1, 2, 3, 5, 6, 7, 8)


def test_with_change_replaces_only_what_is_named() -> None:
    moved = Block("circle", "red", "large", 8)
    assert Scene((RED, BLUE), "grey").with_change((RED,), (moved,)) == Scene((BLUE, moved), "grey")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (("star", "red", "large", 0), "shape"),
        (("circle", "pink", "large", 0), "colour"),
        (("circle", "red", "huge", 0), "size"),
        (("circle", "red", "large", 9), "cell"),
    ],
)
def test_malformed_blocks_are_refused(values: tuple[str, str, str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Block(*values)  # type: ignore[arg-type]


def test_malformed_scenes_are_refused() -> None:
    with pytest.raises(ValueError, match="0 blocks"):
        Scene((), "grey")
    with pytest.raises(ValueError, match="share a cell"):
        Scene((RED, Block("cross", "blue", "small", 4)), "grey")
    with pytest.raises(ValueError, match="background"):
        Scene((RED,), "pink")  # type: ignore[arg-type]


def test_sampling_is_reproducible_and_varied() -> None:
    first = [sample_scene(random.Random(seed), "train") for seed in range(50)]
    assert first == [sample_scene(random.Random(seed), "train") for seed in range(50)]
    assert len(set(first)) > 45
    assert {len(scene.blocks) for scene in first} == {1, 2, 3}


def test_sampling_honours_the_number_of_blocks() -> None:
    rng = random.Random(0)
    assert all(len(sample_scene(rng, split, 2).blocks) == 2 for split in ("train", "held_out") for _ in range(50))
    with pytest.raises(ValueError, match="num_blocks is 4"):
        sample_scene(rng, "train", 4)
    with pytest.raises(ValueError, match="split is 'test'"):
        sample_scene(rng, "test")  # type: ignore[arg-type]
