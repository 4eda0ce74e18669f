"""Jobs in a real Redis: who has a run's folder."""

import threading

import pytest

from services.trainer.jobs.record import Job
from services.trainer.jobs.store import JobStore
from tests.services.trainer.jobs.test_record import new_job
from triptych.errors import FailedPrecondition


def named(job_id: str, output: str = "/o") -> Job:
    return new_job().model_copy(update={"id": job_id, "output": output})


def test_an_output_has_one_live_job(store: JobStore) -> None:
    store.add(named("a"), "")
    store.add(named("elsewhere", "/p"), "")
    with pytest.raises(FailedPrecondition, match="job a is queued in /o: wait for it, or cancel it"):
        store.add(named("b"), "")
    assert [job.id for job in store.all()] == ["a", "elsewhere"]
    store.change("a", lambda job: job.ended("cancelled", 3.0))
    store.add(named("b"), "")

    with pytest.raises(FailedPrecondition, match="job b is queued in /o"):
        store.change("a", lambda job: job.resumed(4.0))
    assert store.get("a").state == "cancelled"
    store.change("b", lambda job: job.ended("failed", 5.0, "no"))
    assert store.change("a", lambda job: job.resumed(6.0)).state == "queued"
    with pytest.raises(FailedPrecondition, match="job a is queued in /o"):
        store.change("b", lambda job: job.resumed(7.0))


def test_of_many_at_the_same_moment_one_gets_it(store: JobStore) -> None:
    jobs = [named(f"job-{number}") for number in range(4)]
    begin = threading.Barrier(len(jobs))

    def add(job: Job) -> None:
        begin.wait()
        try:
            store.add(job, "")
        except FailedPrecondition:
            refused.append(job.id)

    for _ in range(3):
        refused: list[str] = []
        threads = [threading.Thread(target=add, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == len(jobs) - 1
        for job in store.all():
            store.change(job.id, lambda job: job.ended("done", 3.0))
