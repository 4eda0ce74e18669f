import pytest

from services.trainer.evaluators.multiple_choice import chosen


@pytest.mark.parametrize(
    ("reply", "index"),
    [
        ("A", 0),
        ("B.", 1),
        ("(C)", 2),
        ("C: a cube", 2),
        ("A cube.", 2),
        ("a cube", 2),
        ("b", 1),
        ("**B**", 1),
        ("Answer: B", 1),
        ("The answer is B.", 1),
        ("The correct option is (B)", 1),
        ("The answer is unknown.", None),
        ("D", None),
        ("A thing", None),
        ("", None),
    ],
)
def test_a_letter_or_the_option_itself(reply: str, index: int | None) -> None:
    assert chosen(reply, ["a ball", "a cone", "a cube"]) == index
