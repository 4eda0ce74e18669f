"""The gate: equal passes, anything else does not, and every batch size is asked."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from triptych.errors import ExportError
from triptych.models.parity import BATCH_SIZES, NUM_IMAGES, check_parity, compare, parity_pictures

Array = NDArray[np.float32]
ROWS = np.random.default_rng(0).standard_normal((NUM_IMAGES, 5), np.float32)


def double(x: Array) -> Array:
    return 2 * x


def test_equal_models_over_all_batch_sizes() -> None:
    seen: list[int] = []

    def found(x: Array) -> Array:
        seen.append(len(x))
        return double(x)

    parity = compare(found, double, (ROWS,))
    assert (parity.images, parity.max_abs_difference) == (NUM_IMAGES, 0)
    assert parity.cosine_min_seen == pytest.approx(1)
    assert tuple(seen) == BATCH_SIZES
    assert {1, 3, 8} <= set(seen)
    check_parity("encoder", parity, 0.9999)


def test_one_wrong_row_of_all_decides() -> None:
    def found(x: Array) -> Array:
        return np.where(x == ROWS[17], -double(x), double(x))

    parity = compare(found, double, (ROWS,))
    assert parity.cosine_min_seen == pytest.approx(-1)
    with pytest.raises(ExportError, match=r"encoder reaches cosine -1\.0.* 24 inputs .* must be at least 0\.999"):
        check_parity("encoder", parity, 0.999)


def test_nan_is_refused() -> None:
    parity = compare(lambda x: x * np.nan, double, (ROWS,))
    assert math.isnan(parity.cosine_min_seen)
    with pytest.raises(ExportError, match="reaches cosine nan"):
        check_parity("encoder", parity, 0.999)


def test_another_shape_is_refused() -> None:
    with pytest.raises(ExportError, match=r"a batch of 3 gives shape \(1, 5\), must be \(3, 5\)"):
        compare(lambda x: double(x[:1]), double, (ROWS,))


def test_what_lies_far_from_zero_is_centred() -> None:
    expected = 0.5 + ROWS / 100
    shuffled = 0.5 + ROWS[:, ::-1] / 100
    models = (lambda _, i: shuffled[i], lambda _, i: expected[i])
    inputs = (ROWS, np.arange(NUM_IMAGES))
    assert compare(*models, inputs).cosine_min_seen > 0.99
    assert compare(*models, inputs, center=0.5).cosine_min_seen < 0.9


def test_pictures_differ_and_stay() -> None:
    first, again = ([image.tobytes() for image in parity_pictures()] for _ in range(2))
    assert first == again
    assert len(set(first)) == NUM_IMAGES >= 20
