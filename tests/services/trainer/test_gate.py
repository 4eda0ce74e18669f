"""Gates: what is missed, what is no figure at all, and what is not even a number."""

import pytest

from services.trainer.gate import check_gate, check_names
from triptych.errors import FailedPrecondition, InvalidArgument


def test_what_is_reached_is_fine() -> None:
    check_gate("vae", {"scenes_read": 0.9}, {"scenes_read": 0.9, "latent_std": 2.0})
    check_gate("vae", {}, {})


@pytest.mark.parametrize("got", [0.8, float("nan")])
def test_what_is_missed_is_named(got: float) -> None:
    with pytest.raises(FailedPrecondition, match=rf"vae missed its gate: scenes_read {got:.4f} < 0\.9"):
        check_gate("vae", {"scenes_read": 0.9}, {"scenes_read": got})


def test_figures_that_do_not_exist() -> None:
    with pytest.raises(InvalidArgument, match="vae's gate names scenes_raed, known are scenes_read"):
        check_gate("vae", {"scenes_raed": 0.9}, {"scenes_read": 1.0})
    with pytest.raises(InvalidArgument, match="all.gate names loss, known are none"):
        check_names("all.gate", ("loss",), ())


def test_figures_of_kinds_that_only_the_data_know() -> None:
    check_names("gate", ("accuracy", "accuracy: number"), ("accuracy", "accuracy: *"))
    with pytest.raises(InvalidArgument, match="names acuracy: number"):
        check_names("gate", ("acuracy: number",), ("accuracy", "accuracy: *"))
