"""What is shown of a job, and that whoever follows one bears with a broker that is away for a moment."""

import pytest
import redis

from services.trainer.jobs import view
from services.trainer.jobs.record import Job, StageProgress
from tests.services.trainer.jobs.test_record import new_job


@pytest.mark.parametrize("error", [redis.ConnectionError, redis.TimeoutError])
def test_a_broker_that_is_away_for_a_moment(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "POLL_S", 0.0)
    looks = iter([error("away"), new_job().ended("done", 1.0)])

    def look() -> Job:
        seen = next(looks)
        if isinstance(seen, Exception):
            raise seen
        return seen

    assert view.follow(look, silence_s=1.0).state == "done"


def test_stages_of_either_kind_of_recipe_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of a tuning recipe are called what it calls them."""
    heard = {
        "mix": StageProgress(step=5, steps=5),
        "alignment": StageProgress(step=9, steps=9),
        "instruction": StageProgress(step=3, steps=7, figures={"loss": 0.5}),
    }
    job = new_job().launched(1.0, "train").model_copy(update={"progress": heard})
    view.print_jobs([job], silence_s=1.0)
    assert capsys.readouterr().out.splitlines()[1].split("\t")[2:4] == ["train", "instruction 3/7 loss 0.500"]
    view.print_job(job, silence_s=1.0)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(line[0], line[2]) for line in shown] == [("mix", "5/5"), ("alignment", "9/9"), ("instruction", "3/7")]
    evaluated = {**heard, "evaluate": StageProgress(step=1, steps=2)}
    job = job.launched(2.0, "evaluate").model_copy(update={"progress": evaluated})
    view.print_jobs([job], silence_s=1.0)
    assert "evaluate 1/2" in capsys.readouterr().out
