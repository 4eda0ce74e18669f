"""A draft is its own: nothing that stands beside it is touched, and only a whole one takes the name."""

from pathlib import Path

import pytest

from triptych.errors import InvalidArgument
from triptych.models.published.draft import draft


def test_what_has_its_old_name_is_left_alone(tmp_path: Path) -> None:
    """A folder and a file that are no work of ours, whatever they are called."""
    (tmp_path / "one.partial").mkdir()
    (tmp_path / "one.partial" / "mine.txt").write_text("mine")
    (tmp_path / "two.partial").write_text("mine")
    for name in ("one", "two"):
        with draft(tmp_path / name) as folder:
            (folder / "llm").mkdir()
    assert (tmp_path / "one.partial" / "mine.txt").read_text() == (tmp_path / "two.partial").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "one.partial", "two", "two.partial"]


def test_of_two_at_once_the_first_to_end_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InvalidArgument, match="out exists already"), draft(out) as slow:
        (slow / "which").write_text("slow")
        with draft(out) as quick:
            (quick / "which").write_text("quick")
        assert (slow / "which").read_text() == "slow"
    assert (out / "which").read_text() == "quick"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_a_failure(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), draft(tmp_path / "out") as folder:
        (folder / "llm").mkdir()
        raise error
    assert list(tmp_path.iterdir()) == []


def test_it_has_the_rights_of_any_new_folder(tmp_path: Path) -> None:
    """Services of another user read it."""
    (tmp_path / "plain").mkdir()
    with draft(tmp_path / "out"):
        pass
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode
