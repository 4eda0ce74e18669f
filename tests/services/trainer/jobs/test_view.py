"""Whoever follows a job bears with a broker that is away for a moment."""

import pytest
import redis

from services.trainer.jobs import view
from services.trainer.jobs.record import Job
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
