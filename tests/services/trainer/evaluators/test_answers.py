import pytest

from services.trainer.evaluators.answers import normalise, vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("Yes.", "yes"),
        ("The two dogs", "2 dogs"),
        ("none", "0"),
        ("black/white", "black white"),
        ("black, white", "black white"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("dont know", "don't know"),
        ("its", "its"),
        ("theyre", "they're"),
        ("hed", "he'd"),
        ("somebodys", "somebody's"),
        ("shouldntve", "shouldntve"),
        ("shouldn'tve", "shouldn't've"),
        ("shouldnt've", "shouldn't've"),
        ("twas", "'twas"),
        ("lets", "lets"),
        ("im", "im"),
        ("yall'd've", "y'all'd've"),
        ("red\nand blue ", "red and blue"),
        ("", ""),
    ],
)
def test_answers_are_compared_in_one_form(answer: str, same: str) -> None:
    assert normalise(answer) == same


@pytest.mark.parametrize(("agree", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_of_ten_people_three_others_are_enough(agree: int, score: float) -> None:
    """The published scores: 0.3, 0.6 and 0.9 for one, two and three people, over all ways to leave one out."""
    people = ["a red one"] * agree + [f"thing {number}" for number in range(10 - agree)]
    assert vqa_accuracy("Red one", people) == pytest.approx(score)
