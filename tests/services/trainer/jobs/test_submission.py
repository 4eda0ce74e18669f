"""Whether a job may go on with the recipe that is there now."""

from pathlib import Path

import pytest

from services.trainer.jobs.submission import check_unchanged, text_digest
from tests.services.trainer.jobs.test_record import new_job
from triptych.errors import FailedPrecondition, InvalidArgument


def test_the_recipe_of_a_job(tmp_path: Path) -> None:
    path, moved, typo = tmp_path / "recipe.toml", tmp_path / "moved.toml", tmp_path / "typo.toml"
    moved.write_text("a = 1\n")
    job = new_job().model_copy(update={"recipe": str(path), "recipe_digest": text_digest("a = 1\n")})
    check_unchanged(job, None)  # its file is gone, but the job has the text
    check_unchanged(job, moved)
    with pytest.raises(InvalidArgument, match=r"recipe .*typo\.toml does not exist"):
        check_unchanged(job, typo)
    for given in (None, moved):
        (given or path).write_text("a = 2\n")
        with pytest.raises(FailedPrecondition, match="is not what job tiny-1 was submitted with"):
            check_unchanged(job, given)
    moved.write_bytes(b"\xff\xfe a = 1")  # not even text
    with pytest.raises(FailedPrecondition, match="is not what job tiny-1 was submitted with"):
        check_unchanged(job, moved)
