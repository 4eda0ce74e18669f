"""A supervisor in this process, with a real Redis: what it makes of a machine, and a broker, that fail it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from services.trainer.jobs.broker import ANSWER_TIMEOUT_S
from services.trainer.jobs.processes import mark, marked
from services.trainer.jobs.record import Job
from services.trainer.jobs.settings import JobSettings
from services.trainer.jobs.store import JobStore
from services.trainer.jobs.supervisor import Supervisor
from tests.services.trainer.jobs.test_record import new_job

TRAINER = f"{sys.executable} -S -c 'import time; time.sleep(300)'"
SETTINGS = JobSettings(lease_s=3.0, beat_s=0.05, grace_s=0.2, trainer=TRAINER)


def add(store: JobStore, folder: Path) -> Job:
    paths = {"folder": str(folder / "here"), "files": str(folder / "files" / "a"), "output": str(folder / "output")}
    (folder / "here").mkdir()
    job = new_job().model_copy(update={"id": f"job-{uuid4().hex}", **paths})  # another run of this test ends its own
    store.add(job, "")
    return job


def supervisor(store: JobStore, enqueued: list[Job], address: str = "127.0.0.1") -> Supervisor:
    return Supervisor(store, SETTINGS, "the-worker", address, enqueued.append, lambda _: None)


def test_what_the_machine_cannot_do_fails_the_job(store: JobStore, tmp_path: Path) -> None:
    job = add(store, tmp_path)
    run = supervisor(store, []).run
    (tmp_path / "here").rmdir()
    assert run(job.id, job.task, 0, 1) == "failed: prepare"
    said = store.get(job.id).error
    assert said == f"the-worker: [Errno 2] No such file or directory: '{tmp_path / 'here'}'"
    assert not (tmp_path / "files").exists()

    (tmp_path / "here").mkdir()
    (tmp_path / "files").touch()
    store.change(job.id, lambda job: job.resumed(time.time()))
    assert run(job.id, job.task, 0, 2) == "failed: prepare"
    assert "Not a directory" in store.get(job.id).error

    store.change(job.id, lambda job: job.resumed(time.time()))
    supervisor(store, [], "192.0.2.1").run(job.id, job.task, 0, 3)
    assert "the-worker: [Errno 99] Cannot assign requested address" in store.get(job.id).error
    assert store.lease(job.id, 0, SETTINGS.lease_s).holder_launch() == 0


def test_a_broker_that_hangs_does_not_hold_up_the_end_of_a_trainer(store: JobStore, tmp_path: Path) -> None:
    """One call may take several times the lease; someone else may hold it by then."""
    job, enqueued = add(store, tmp_path), list[Job]()
    marks, server = mark(job.id, 0), int(store.redis.info("server")["process_id"])  # type: ignore[index]
    at_work = threading.Thread(target=supervisor(store, enqueued).run, args=(job.id, job.task, 0, 1))
    at_work.start()
    wait_for(lambda: len(marked(marks)) >= 2)  # the guard, and the trainer
    os.kill(server, signal.SIGSTOP)
    start_s = time.monotonic()
    try:
        wait_for(lambda: not marked(marks))
        assert time.monotonic() - start_s < ANSWER_TIMEOUT_S
    finally:
        os.kill(server, signal.SIGCONT)
    at_work.join()
    after = store.get(job.id)
    assert (after.state, after.launch, after.attempts) == ("queued", 2, 0)
    assert enqueued == [after]


def wait_for(what: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
