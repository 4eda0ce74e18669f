"""The judge reads clean pictures exactly, spoilt ones nearly so, and survives junk."""

import io
import random
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from services.trainer.data.blocks.reader import Verdict, judge, read
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import BACKGROUNDS, COLOURS, SPLITS, Block, Scene, sample_scene

Picture = NDArray[np.uint8]


def _noisy(picture: Picture) -> Picture:
    noise = np.random.default_rng(int(picture.sum())).normal(0.0, 12.0, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def _blurred(picture: Picture) -> Picture:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1.0)))


def _compressed(picture: Picture) -> Picture:
    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, "JPEG", quality=60)
    return np.asarray(Image.open(stored).convert("RGB"))


def _tinted(picture: Picture) -> Picture:
    tinted: Picture = np.clip(picture * np.array([0.9, 1.0, 0.85]) + 10, 0, 255).astype(np.uint8)
    return tinted


def test_clean_pictures_are_read_exactly() -> None:
    rng = random.Random(0)
    for seed in range(3000):
        scene = sample_scene(rng, SPLITS[seed % 2])
        reading = read(render(scene, seed))
        assert (reading.blocks, reading.background) == (scene.blocks, scene.background)


@pytest.mark.parametrize(("spoil", "floor"), [(_noisy, 0.99), (_blurred, 0.99), (_compressed, 0.98), (_tinted, 0.98)])
def test_spoilt_pictures_are_read_nearly_exactly(spoil: Callable[[Picture], Picture], floor: float) -> None:
    rng = random.Random(1)
    verdicts = []
    for seed in range(400):
        scene = sample_scene(rng, SPLITS[seed % 2])
        verdicts.append(judge(spoil(render(scene, seed)), scene))
    total = sum(verdict.num_blocks for verdict in verdicts)
    assert sum(verdict.num_right for verdict in verdicts) / total >= floor
    assert sum(verdict.size_right for verdict in verdicts) / total >= floor
    assert sum(verdict.background_right for verdict in verdicts) / len(verdicts) >= 0.98
    assert sum(verdict.extra for verdict in verdicts) == 0


def test_junk_is_survived() -> None:
    generator = np.random.default_rng(2)
    junk = [generator.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(20)]
    junk += [np.full((64, 64, 3), level, np.uint8) for level in (0, 90, 255)]
    junk.append(np.full((64, 64, 3), (250, 10, 10), np.uint8))
    diagonal = np.zeros((64, 64, 3), np.uint8)
    diagonal[range(64), range(64)] = (255, 0, 255)
    junk.append(diagonal)
    for picture in junk:
        assert len(read(picture).blocks) <= 9


def test_bare_backgrounds_and_noise_hold_no_blocks() -> None:
    generator = np.random.default_rng(3)
    assert read(np.full((64, 64, 3), 134, np.uint8)).blocks == ()
    assert read(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).blocks == ()


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="must be"):
        read(np.zeros((32, 32, 3), np.uint8))


def test_verdicts_tell_each_fault() -> None:
    circle, square = Block("circle", "red", "large", 0), Block("square", "blue", "small", 4)
    target = Scene((circle, square), "grey")

    def verdict(*blocks: Block, background: str = "grey") -> Verdict:
        return judge(render(Scene(blocks, background), 7), target)  # type: ignore[arg-type]

    assert verdict(circle, square) == Verdict(2, 2, 0, True, 2, True)
    assert verdict(circle, square, background="sand") == Verdict(2, 2, 0, True, 2, False)
    assert verdict(circle, replace(square, size="large")) == Verdict(2, 2, 0, True, 1, True)
    assert verdict(circle, replace(square, colour="cyan")) == Verdict(2, 1, 0, False, 1, True)
    assert verdict(circle, replace(square, shape="cross")) == Verdict(2, 1, 0, False, 1, True)
    assert verdict(circle, replace(square, cell=5)) == Verdict(2, 1, 1, False, 1, True)
    assert verdict(circle) == Verdict(2, 1, 0, False, 1, True)
    assert verdict(circle, square, Block("cross", "green", "small", 8)) == Verdict(2, 2, 1, False, 2, True)


def test_colours_are_told_apart_on_every_background() -> None:
    for colour in COLOURS:
        for background in BACKGROUNDS:
            scene = Scene((Block("triangle", colour, "small", 3),), background)
            assert read(_noisy(render(scene, 1))).blocks == scene.blocks


def test_reading_is_fast() -> None:
    rng = random.Random(4)
    pictures = [render(sample_scene(rng, "train"), seed) for seed in range(200)]
    read(pictures[0])
    started = time.process_time()
    for picture in pictures:
        read(picture)
    assert len(pictures) / (time.process_time() - started) > 200
