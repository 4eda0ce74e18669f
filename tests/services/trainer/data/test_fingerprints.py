"""What the fingerprints call the same, and how often they are wrong: measured on pictures and texts made for it."""

import io
import random
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from services.trainer.data.fingerprints import distance, picture_hash, signature, similarity, words
from services.trainer.data.mix import Dedup
from tests.services.trainer.data.published import draw

NUM = 40
MOST = Dedup().picture_distance
ALIKE = Dedup().text_similarity


def chart(seed: int) -> Image.Image:
    """Six bars on white: charts of one style differ in little else."""
    rng, image = random.Random(seed), Image.new("RGB", (300, 240), "white")
    pen = ImageDraw.Draw(image)
    pen.line((30, 10, 30, 210, 290, 210), fill="black")
    for bar in range(6):
        pen.rectangle((45 + bar * 40, 210 - rng.randrange(10, 190), 70 + bar * 40, 210), fill="steelblue")
    return image


def page(seed: int) -> Image.Image:
    """Black lines of letters on white."""
    rng, image = random.Random(seed), Image.new("L", (300, 420), "white")
    pen = ImageDraw.Draw(image)
    for row in range(22):
        text = " ".join(
            "".join(rng.choices("abcdefghijklmnop", k=rng.randrange(2, 9))) for _ in range(rng.randrange(8))
        )
        pen.text((20, 20 + row * 17), text, fill="black")
    return image


def photo(seed: int) -> Image.Image:
    return draw(seed, (200, 160))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


@pytest.mark.parametrize("make", [photo, chart, page])
def test_no_two_different_pictures_are_one(make: Callable[[int], Image.Image]) -> None:
    """780 pairs of each kind: none within three times the distance."""
    hashes = [picture_hash(make(seed)) for seed in range(NUM)]
    assert min(distance(a, b) for a, b in combinations(hashes, 2)) > 3 * MOST


@pytest.mark.parametrize("make", [photo, chart])
def test_a_picture_saved_again_is_the_same(make: Callable[[int], Image.Image]) -> None:
    """Recompressed, at half the size, and in another format; at least 95 in 100."""
    found = []
    for seed in range(NUM):
        image = make(seed)
        hashed = picture_hash(image)
        half = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
        changed = [jpeg(image, 75), jpeg(image, 40), half, image.convert("RGBA")]
        found += [distance(hashed, picture_hash(other)) <= MOST for other in changed]
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_any_mode(mode: str) -> None:
    image = Image.new(mode, (40, 30))
    assert 0 <= picture_hash(image) < 2**256


def test_transparent_is_white() -> None:
    clear = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    assert picture_hash(clear) == picture_hash(Image.new("RGB", (40, 30), "white"))


def text(rng: random.Random, num_words: int) -> list[str]:
    return [f"w{rng.randrange(3000)}" for _ in range(num_words)]


def shared(first: list[str], second: list[str]) -> float:
    """The true Jaccard similarity of runs of three words."""
    a, b = ({tuple(t[i : i + 3]) for i in range(len(t) - 2)} for t in (first, second))
    return len(a & b) / len(a | b)


def test_estimates_are_right() -> None:
    rng, errors = random.Random(0), []
    for index in range(60):
        first = text(rng, 120)
        second = [word if rng.random() > index / 400 else "x" for word in first]
        estimate = similarity(signature(" ".join(first)), signature(" ".join(second)))
        errors.append(estimate - shared(first, second))
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 0.08


def test_different_texts_are_never_alike() -> None:
    rng = random.Random(1)
    signatures = [signature(" ".join(text(rng, 40))) for _ in range(NUM)]
    assert max(similarity(a, b) for a, b in combinations(signatures, 2)) < ALIKE / 2


def test_half_the_same_is_not_the_same() -> None:
    """False positives at a true similarity of about one half: fewer than one in a hundred."""
    rng, wrong = random.Random(2), 0
    for _ in range(100):
        first = text(rng, 60)
        second = first[:40] + text(rng, 20)
        wrong += similarity(signature(" ".join(first)), signature(" ".join(second))) >= ALIKE
    assert wrong <= 1


def test_case_width_and_punctuation_do_not_count() -> None:
    assert words("\uff34he LAMP, the-lamp!") == ["the", "lamp", "the", "lamp"]
    assert words("赤い lamp") == ["赤", "い", "lamp"]
    assert similarity(signature("The red lamp."), signature("the RED  lamp")) == 1


@pytest.mark.parametrize("short", ["", "a", "a b", "!?"])
def test_short_texts_have_signatures(short: str) -> None:
    assert signature(short).shape == (64,)
    assert similarity(signature(short), signature(short)) == 1
    assert similarity(signature(short), signature("c d")) < ALIKE
