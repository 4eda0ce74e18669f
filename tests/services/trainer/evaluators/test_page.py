"""What the report says of a figure."""

import pytest

from services.trainer.evaluators.figures import Share
from services.trainer.evaluators.page import to_text


@pytest.mark.parametrize("of", [5, 10, 15, 300])
def test_none_right_is_not_below_none(of: int) -> None:
    assert to_text(Share(0, of))[2].startswith("0.000 to ")
