"""Near-duplicates: same pictures and same words, across sources, the first one stays; and how often it errs."""

import hashlib
import random
from dataclasses import replace

import numpy as np
import pytest

from services.trainer.data.dedup import Deduplicator, PictureClusters
from services.trainer.data.fingerprints import HASH_BITS, distance, signature
from services.trainer.data.mix import Dedup
from services.trainer.data.scanning import Scanned
from tests.services.trainer.data.published import say
from triptych.prompts import Task


def sha(value: object) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()


def scanned(text: str, *hashes: int, task: Task = "understand") -> Scanned:
    return Scanned("i", 0, 0, 0, task, None, tuple(sha(h) for h in hashes), hashes, signature(text))


def flip(value: int, rng: random.Random, num: int) -> int:
    for bit in rng.sample(range(HASH_BITS), num):
        value ^= 1 << bit
    return value


def test_clusters_are_those_of_comparing_all() -> None:
    """Against every pair compared, at the limit and beyond, for every distance there may be."""
    for most in (0, 1, 3, 15):
        rng = random.Random(most)
        clusters, leaders = PictureClusters(most), list[int]()
        for _ in range(300):
            hashed = rng.getrandbits(HASH_BITS)
            if leaders and rng.random() < 0.7:
                hashed = flip(rng.choice(leaders), rng, rng.choice([0, most, most + 1, 2 * most]))
            near = [n for n, leader in enumerate(leaders) if distance(leader, hashed) <= most]
            found = clusters.cluster(sha(hashed), hashed)
            assert found in near or (not near and found == len(leaders))
            if not near:
                leaders.append(hashed)


def test_the_first_stays() -> None:
    made = Deduplicator(Dedup())
    text = say(random.Random(0), 30)
    assert made.original("a/1", scanned(text, 5)) is None
    assert made.original("b/1", scanned(text.upper() + "!", 5)) == "a/1"
    assert made.original("b/2", scanned(text, 4)) == "a/1"  # one bit away
    assert made.original("b/3", scanned(text, 5)) == "a/1"


def test_picture_words_and_task_count() -> None:
    made, rng = Deduplicator(Dedup()), random.Random(1)
    text = say(rng, 30)
    far = flip(5, rng, 60)
    for name, record in {
        "one": scanned(text, 5),
        "other words": scanned(say(rng, 30), 5),
        "other picture": scanned(text, far),
        "no picture": scanned(text),
        "twice": scanned(text, 5, 5),
        "order": scanned(text, 5, far),
        "turned": scanned(text, far, 5),
        "drawn": scanned(text, 5, task="generate"),
    }.items():
        assert made.original(name, record) is None, name
    assert made.original("again", scanned(text)) == "no picture"


def test_switched_off() -> None:
    made = Deduplicator(Dedup(enabled=False))
    assert [made.original(str(i), scanned("a b c", 5)) for i in range(3)] == [None] * 3


@pytest.mark.parametrize(("changed", "least", "most"), [(0, 1.0, 1.0), (1, 0.9, 1.0), (12, 0.0, 0.05)])
def test_how_much_may_differ(changed: int, least: float, most: float) -> None:
    """60 words of which so many are others: one is found nearly always, twelve hardly ever."""
    rng, found = random.Random(2), 0
    for index in range(60):
        made = Deduplicator(Dedup())
        words = [f"w{rng.randrange(5000)}" for _ in range(60)]
        other = list(words)
        for place in rng.sample(range(60), changed):
            other[place] = "x"
        made.original("a", scanned(" ".join(words), index))
        found += made.original("b", scanned(" ".join(other), index)) is not None
    assert least <= found / 60 <= most


def test_false_positives_among_short_questions() -> None:
    """600 questions and answers about 20 pictures, drawn from few words: none but true repeats goes."""
    rng, made, seen, wrong = random.Random(3), Deduplicator(Dedup()), set[tuple[int, str]](), 0
    pictures = [rng.getrandbits(HASH_BITS) for _ in range(20)]
    colours = ["red", "green", "blue", "black", "white", "grey", "pink", "brown", "cyan", "gold"]
    things = ["lamp", "door", "tree", "boat", "bird", "stone", "chair", "road", "cloud", "fence"]
    for index in range(600):
        picture = rng.choice(pictures)
        text = f"What colour is the {rng.choice(things)}? {rng.choice(colours)}"
        dropped = made.original(str(index), scanned(text, picture))
        wrong += dropped is not None and (picture, text) not in seen
        assert dropped is not None or (picture, text) not in seen
        seen.add((picture, text))
    assert wrong == 0


def test_rows_survive_json() -> None:
    record = replace(scanned("a b c d", 2**255 + 1, 0), tokens=12)
    again = Scanned.from_dict(record.to_dict())
    assert np.array_equal(again.signature, record.signature)
    assert replace(again, signature=record.signature) == record
