import math

import pytest

from services.trainer.evaluators.figures import Mean, Share, tally


def test_wilson_at_the_ends_and_in_the_middle() -> None:
    """Against Wilson's formula worked by hand for 0, half and all of ten."""
    assert Share(0, 10).interval == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert Share(5, 10).interval == pytest.approx((0.2366, 0.7634), abs=1e-3)
    assert Share(10, 10).interval == pytest.approx((0.7225, 1.0), abs=1e-3)


def test_a_mean_has_the_normal_interval_but_not_of_one_score() -> None:
    mean = Mean((0.0, 0.5, 1.0, 0.5))
    half = 1.96 * math.sqrt(1 / 6) / 2
    assert mean.value == 0.5
    assert mean.interval == pytest.approx((0.5 - half, 0.5 + half))
    assert Mean((0.5,)).interval is None
    assert Mean((0.5,)).to_dict() == {"of": 1, "value": 0.5, "interval": None}


def test_truth_values_make_shares_and_numbers_means_whole_ones_first() -> None:
    figures = tally([("b: x", True), ("b", True), ("a", 0.25), ("b", False), ("a", 0.75)])
    assert figures == {"a": Mean((0.25, 0.75)), "b": Share(1, 2), "b: x": Share(1, 1)}
    assert list(figures) == ["a", "b", "b: x"]
