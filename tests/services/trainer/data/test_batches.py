"""Every sample once an epoch, kinds together, lengths together, whoever asks and whenever."""

import random
from collections import Counter

import pytest

from services.trainer.data.batches import WINDOW, GroupedBatches
from triptych.errors import InvalidArgument

KINDS = ["understand"] * 3003 + ["generate"] * 1002 + ["text"] * 5
LENGTHS = [random.Random(index).randrange(20, 2000) for index in range(len(KINDS))]


def made(seed: str = "0/all") -> GroupedBatches:
    return GroupedBatches(KINDS, LENGTHS, 8, seed)


def test_an_epoch_has_every_sample_once_but_for_the_rest() -> None:
    batches = made()
    assert len(batches) == 4010 // 8
    for epoch in range(2):
        seen = [i for step in range(len(batches)) for i in batches.at(epoch * len(batches) + step)]
        assert len(seen) == len(set(seen)) == 4008


def test_batches_are_of_one_kind_and_about_one_length() -> None:
    batches = made()
    kinds = [{KINDS[i] for i in batches.at(step)} for step in range(len(batches))]
    assert sum(len(kind) > 1 for kind in kinds) == 1  # what is left of the three kinds: 3 + 2 + 5
    found = Counter(next(iter(kind)) for kind in kinds if len(kind) == 1)
    assert found == {"understand": 375, "generate": 125}
    lengths = [[LENGTHS[i] for i in batches.at(step)] for step in range(len(batches))]
    spreads = [max(found) - min(found) for found in lengths]
    assert sorted(spreads)[len(spreads) // 2] < 2 * 2000 / WINDOW
    assert all(own == sorted(own, reverse=True) for own, kind in zip(lengths, kinds, strict=True) if len(kind) == 1)


def test_a_step_is_a_function_of_the_seed() -> None:
    one, other = made(), made()
    later = [one.at(step) for step in (1300, 3, 700)]
    assert [other.at(step) for step in (1300, 3, 700)] == later
    assert made("1/all").at(3) != later[1]
    lengths = [sum(LENGTHS[i] for i in one.at(step)) for step in range(40)]
    assert lengths != sorted(lengths)


def test_fewer_samples_than_a_batch_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="batch_size is 8, but there are 7 samples"):
        GroupedBatches(["text"] * 7, [1] * 7, 8, "0")
