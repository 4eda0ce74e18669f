"""A job on two nodes: two workers with queues of their own, ranks that meet over gloo."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.services.trainer.jobs import meeting_trainer
from tests.services.trainer.jobs.bench import Bench

TRAINER = f"{sys.executable} {meeting_trainer.__file__}"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("nodes"), trainer=TRAINER)
    yield bench
    bench.close()


@pytest.mark.slow
def test_two_nodes_start_together_and_fall_together(bench: Bench) -> None:
    bench.start_worker("--queue", "a")
    job_id = bench.launch("pair", "a", "b")
    bench.wait(lambda: bench.store.get(job_id).task == "train" and bench.store.get(job_id).nodes[0].state == "ready")
    assert bench.store.get(job_id).state == "queued"  # the second is not there, so the first does nothing
    assert bench.left(job_id) == []

    second = bench.start_worker("--queue", "b")
    bench.wait(lambda: bench.counted("pair", 1) >= 3)
    assert bench.store.get(job_id).state == "running"
    launch = bench.store.get(job_id).launch
    os.kill(second.pid, signal.SIGKILL)
    bench.wait(lambda: bench.store.get(job_id).launch > launch)
    bench.wait(lambda: not bench.left(job_id, 0) and not bench.left(job_id, 1))
    assert bench.counted("pair") < meeting_trainer.STEPS

    bench.start_worker("--queue", "b")
    job = bench.wait_for(job_id, "done")
    assert [bench.counted("pair", rank) for rank in (0, 1)] == [meeting_trainer.STEPS] * 2
    assert len({node.queue for node in job.nodes}) == 2


@pytest.mark.slow
def test_cancelling_ends_both(bench: Bench) -> None:
    job_id = bench.launch("ended", "a", "b")
    bench.wait(lambda: bench.counted("ended", 1) >= 1)
    bench.train("cancel", job_id)
    bench.wait(lambda: not bench.left(job_id, 0) and not bench.left(job_id, 1), timeout_s=5)
    assert bench.store.get(job_id).state == "cancelled"
