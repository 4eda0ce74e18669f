"""Where a run may not publish: what would be lost, or refused after all the work, is refused before it."""

from pathlib import Path

import pytest

from services.trainer.destination import check_out
from tests.services.trainer.tiny_recipe import tiny_recipe
from triptych.errors import InvalidArgument


@pytest.mark.parametrize("out", ["runs/tiny", "runs/tiny/vae", "runs", ".", "elsewhere/../runs/tiny"])
def test_no_folder_of_the_run_s_own(out: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(runs=str(tmp_path / "all" / "runs"), out=str(tmp_path / "all" / out))
    with pytest.raises(InvalidArgument, match="are one inside the other: publish elsewhere"):
        recipe.check()


def test_what_stands_there_is_a_checkpoint_or_nothing(tmp_path: Path) -> None:
    out, run = tmp_path / "out", tmp_path / "runs" / "tiny"
    check_out(out, run)
    out.mkdir()
    with pytest.raises(InvalidArgument, match="out exists and is no checkpoint"):
        check_out(out, run)
    (out / "system.json").touch()
    check_out(out, run)
