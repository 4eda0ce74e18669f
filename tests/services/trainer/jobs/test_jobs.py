"""Jobs under real workers and a real Redis, and what becomes of them when something is killed."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.trainer.app import app
from services.trainer.jobs.record import MAX_ATTEMPTS, TASKS
from services.trainer.tasks import enqueue
from tests.services.trainer.jobs.bench import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Two workers, so that there is always one to take over, and a visibility timeout that every task outlives."""
    bench = Bench(tmp_path_factory.mktemp("jobs"), VISIBILITY_TIMEOUT_S="1")
    bench.start_worker()
    bench.start_worker()
    yield bench
    bench.close()


def steps(number: int) -> dict[str, dict[str, int]]:
    return {"vae": {"steps": number}}


def test_a_job_runs_its_tasks_in_order_and_leaves_nothing_behind(bench: Bench) -> None:
    job_id = bench.launch("whole", **steps(5))
    job = bench.wait_for(job_id, "done")
    assert bench.calls("whole") == list(TASKS)
    assert job.progress["vae"].step == 5
    assert job.progress["vae"].figures == {"loss": 0.2}
    assert job.finished_s is not None
    assert bench.left(job_id) == []  # also the child that sleeps in a session of its own


def test_however_often_it_is_delivered_it_runs_once(bench: Bench) -> None:
    job_id = bench.launch("often", **steps(60))
    bench.wait_for_step(job_id, 1)
    job = bench.store.get(job_id)
    for _ in range(4):
        enqueue(job)  # the other worker has time to take them
        time.sleep(0.3)
    bench.wait_for(job_id, "done")
    enqueue(job)
    enqueue(bench.store.get(job_id))
    bench.wait(lambda: not bench.store.redis.llen("triptych"))
    time.sleep(0.5)
    assert bench.calls("often") == list(TASKS)
    assert not bench.doubled("often")


def test_a_job_whose_worker_is_killed_goes_on_by_itself(bench: Bench) -> None:
    job_id = bench.launch("orphan", **steps(40))
    bench.wait_for_step(job_id, 5)
    worker = bench.store.get(job_id).nodes[0].worker
    pid = next(live.pid for live in bench.store.workers() if live.name == worker)
    os.kill(pid, signal.SIGKILL)  # its main process alone, as the kernel or a person would
    bench.wait(lambda: not bench.left(job_id), timeout_s=5)
    counted = bench.counted("orphan")
    assert 5 <= counted < 40
    bench.start_worker()
    job = bench.wait_for(job_id, "done")
    assert job.nodes[0].worker != worker
    assert bench.counted("orphan") == 40
    assert bench.calls("orphan") == ["prepare", "train", *TASKS[1:]]
    assert not bench.doubled("orphan")


def test_a_killed_broker_comes_back_and_has_lost_nothing(bench: Bench) -> None:
    job_id = bench.launch("brokerless", **steps(40))
    bench.wait_for_step(job_id, 5)
    bench.kill_broker()
    bench.wait_for(job_id, "done")
    assert bench.calls("brokerless") == list(TASKS)
    assert bench.store.get(job_id).launch == len(TASKS)


def test_cancel_ends_all_within_seconds_and_resume_goes_on(bench: Bench) -> None:
    job_id = bench.launch("unwanted", **steps(100))
    bench.wait_for_step(job_id, 5)
    start_s = time.monotonic()
    bench.train("cancel", job_id)
    assert time.monotonic() - start_s < 10
    assert bench.left(job_id) == []
    assert bench.store.get(job_id).state == "cancelled"
    counted = bench.counted("unwanted")
    assert 5 <= counted < 100
    (bench.runs / "unwanted" / "calls").unlink()
    assert bench.train("resume", job_id)[0] == job_id
    bench.wait_for(job_id, "done")
    assert bench.counted("unwanted") == 100
    assert bench.calls("unwanted") == list(TASKS[1:])


def test_cancel_also_ends_a_job_whose_worker_has_just_died(bench: Bench) -> None:
    """With nobody left to bring it back, or to see that it is not wanted."""
    worker = bench.start_worker("--queue", "alone")
    job_id = bench.launch("forsaken", "alone", **steps(100))
    bench.wait_for_step(job_id, 5)
    others = [live.pid for live in bench.store.workers() if live.pid != worker.pid]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        worker.kill()
        start_s = time.monotonic()
        bench.train("cancel", job_id)
        assert time.monotonic() - start_s < 30
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)
    assert bench.store.get(job_id).state == "cancelled"
    assert bench.left(job_id) == []


def break_it(bench: Bench, name: str, how: str) -> None:
    (bench.runs / name).mkdir(parents=True)
    (bench.runs / name / "break").write_text(how)


def test_a_killed_trainer_is_started_again(bench: Bench) -> None:
    break_it(bench, "shot", "signal 3")
    job = bench.wait_for(bench.launch("shot", **steps(6)), "done")
    assert bench.calls("shot") == ["prepare", "train", *TASKS[1:]]
    assert job.error == ""


def test_one_that_gets_nowhere_is_given_up(bench: Bench) -> None:
    break_it(bench, "hopeless", "code 7")
    job = bench.wait_for(bench.launch("hopeless"), "failed")
    assert bench.calls("hopeless") == ["prepare"] + MAX_ATTEMPTS * ["train"]
    assert job.error.startswith("train ended with exit code 7")


def test_a_clear_error_is_not_tried_again(bench: Bench) -> None:
    break_it(bench, "wrong", "code 2")
    job = bench.wait_for(bench.launch("wrong"), "failed")
    assert bench.calls("wrong") == ["prepare", "train"]
    assert job.error == "train ended with exit code 2\nerror: the recipe is not to our liking"


def test_a_worker_that_is_stopped_hands_its_job_back(bench: Bench) -> None:
    job_id = bench.launch("handed", **steps(60))
    bench.wait_for_step(job_id, 5)
    worker = bench.store.get(job_id).nodes[0].worker
    pid = next(live.pid for live in bench.store.workers() if live.name == worker)
    os.kill(pid, signal.SIGTERM)
    job = bench.wait_for(job_id, "done")
    assert job.attempts == 0
    assert bench.calls("handed") == ["prepare", "train", *TASKS[1:]]
    assert bench.counted("handed") == 60
    assert not bench.doubled("handed")


def test_a_task_that_celery_terminates_is_a_cancelled_job(bench: Bench) -> None:
    job_id = bench.launch("revoked", **steps(100))
    bench.wait_for_step(job_id, 3)
    app.control.revoke(f"{job_id}-train-2", terminate=True)  # as Flower's button does
    bench.wait_for(job_id, "cancelled")
    bench.wait(lambda: not bench.left(job_id), timeout_s=5)


def test_who_loses_the_lease_stops_at_once(bench: Bench) -> None:
    job_id = bench.launch("robbed", **steps(40))
    bench.wait_for_step(job_id, 3)
    bench.store.redis.set(f"triptych:job:{job_id}:lease:0", "2 a thief")
    bench.wait(lambda: not bench.left(job_id), timeout_s=5)
    assert bench.counted("robbed") < 40
    bench.store.redis.delete(f"triptych:job:{job_id}:lease:0")
    assert "no sign of life" not in bench.wait_for(job_id, "done").error
    assert bench.calls("robbed") == ["prepare", "train", *TASKS[1:]]


def test_a_message_that_the_broker_loses_is_sent_again(bench: Bench) -> None:
    job_id = bench.launch("unheard", "a queue without workers")
    bench.store.redis.delete("a queue without workers")
    bench.wait(lambda: bench.store.redis.llen("a queue without workers"))
    assert bench.store.get(job_id).launch == 2


def test_recipes_are_checked_before_anything_is_queued(bench: Bench, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("name = 'x'")
    before = len(bench.store.all())
    assert "recipe" in bench.train("submit", str(wrong), code=2)[1]
    assert "does not exist" in bench.train("submit", str(tmp_path / "none.toml"), code=2)[1]
    assert len(bench.store.all()) == before
