"""Pictures depend on scene and seed alone, and an edit leaves the rest of the picture as it was."""

import hashlib
import random
import time

import numpy as np

from services.trainer.data.blocks.edits import edit
from services.trainer.data.blocks.masks import CELL_CENTRES, JITTER_HALVES, mask, patch_corner
from services.trainer.data.blocks.palette import COLOUR_RGB
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import SHAPES, SIZES, Block, Scene, sample_scene


def test_pictures_have_the_promised_form_and_are_reproducible() -> None:
    scene = sample_scene(random.Random(0), "train", 3)
    picture = render(scene, 5)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.dtype(np.uint8)
    assert np.array_equal(picture, render(scene, 5))
    assert not np.array_equal(picture, render(scene, 6))


def test_pictures_are_the_same_on_every_machine() -> None:
    rng = random.Random(3)
    digest = hashlib.sha256()
    for seed in range(200):
        digest.update(render(sample_scene(rng, "train"), seed).tobytes())
    assert digest.hexdigest()[:16] == "f86f595be4017da8"


def test_rendering_leaves_the_cached_background_alone() -> None:
    scene = Scene((Block("circle", "red", "large", 4),), "white")
    before = render(scene, 0)
    render(Scene((Block("square", "blue", "large", 0),), "white"), 0)
    assert np.array_equal(before, render(scene, 0))


def test_the_middle_of_a_block_has_its_colour() -> None:
    rng = random.Random(4)
    for seed in range(200):
        scene = sample_scene(rng, "train")
        picture = render(scene, seed)
        for block in scene.blocks:
            pixel = picture[CELL_CENTRES[block.row], CELL_CENTRES[block.column]]
            assert tuple(int(value) for value in pixel) == COLOUR_RGB[block.colour]


def test_pixels_outside_the_edited_cells_stay_identical() -> None:
    rng = random.Random(5)
    windows = (slice(0, 22), slice(21, 43), slice(42, 64))
    for seed in range(300):
        scene = sample_scene(rng, "train")
        result = edit(scene, rng, "train").result
        before, after = render(scene, seed), render(result, seed)
        assert not np.array_equal(before, after)
        for cell in range(9):
            if scene.block_at(cell) == result.block_at(cell):
                row, column = divmod(cell, 3)
                window = windows[row], windows[column]
                assert np.array_equal(before[window], after[window])


def test_blocks_stay_in_their_cells() -> None:
    for centre, low, high in zip(CELL_CENTRES, (0, 22, 43), (21, 42, 64), strict=True):
        for offset in JITTER_HALVES:
            corner, half = patch_corner(centre, offset)
            for shape in SHAPES:
                columns = np.flatnonzero(mask(shape, "large", half, 0).any(axis=0)) + corner
                assert low <= columns.min() and columns.max() < high


def test_shapes_weigh_about_the_same() -> None:
    for size in SIZES:
        areas = [float(mask(shape, size, 0, 0).sum()) for shape in SHAPES]
        assert max(areas) < 1.5 * min(areas)


def test_rendering_is_fast() -> None:
    rng = random.Random(6)
    scenes = [sample_scene(rng, "train", 3) for _ in range(1000)]
    for seed, scene in enumerate(scenes):
        render(scene, seed)
    started = time.process_time()
    for seed, scene in enumerate(scenes):
        render(scene, seed)
    assert len(scenes) / (time.process_time() - started) > 4000
