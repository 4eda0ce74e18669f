"""The one number that probes and exports are held to."""

import math

import numpy as np
import pytest

from triptych.cosine import cosine


def test_directions() -> None:
    a = np.array([[3.0, 4.0]], np.float32)
    assert cosine(a, 7 * a) == pytest.approx(1)
    assert cosine(a, -a) == pytest.approx(-1)
    assert cosine(a, np.array([[-4.0, 3.0]])) == pytest.approx(0)


def test_zeros_and_nan() -> None:
    zeros, ones = np.zeros(3), np.ones(3)
    assert cosine(zeros, zeros) == 1
    assert cosine(zeros, ones) == cosine(ones, zeros) == 0
    assert math.isnan(cosine(np.array([np.nan]), np.ones(1)))
