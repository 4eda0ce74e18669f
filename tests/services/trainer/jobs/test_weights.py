"""Real training, disturbed: the weights it ends with are those of a run that nobody touched, to the bit."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.trainer.jobs.bench import ROOT, Bench

TRAINER = f"{sys.executable} {Path(__file__).with_name('toy_trainer.py')}"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("weights"), trainer=TRAINER)
    yield bench
    bench.close()


def weights(bench: Bench, name: str) -> bytes:
    return (bench.runs / name / "toy" / "out" / "weights.pt").read_bytes()


def is_done(bench: Bench, name: str) -> bool:
    return (bench.runs / name / "toy" / "done.json").exists()


def wait_for_state(bench: Bench, name: str) -> None:
    """Until the training has saved where it is."""
    bench.wait(lambda: any((bench.runs / name / "toy").glob("state*")))


@pytest.mark.slow
def test_kills_leave_no_trace_in_the_weights(bench: Bench) -> None:
    command = [*TRAINER.split(), str(bench.recipe("untouched")), "--task", "train"]
    untouched = subprocess.Popen(command, cwd=ROOT, env=bench.environment, stdout=subprocess.DEVNULL)

    worker = bench.start_worker()
    job_id = bench.launch("workerless")
    wait_for_state(bench, "workerless")
    os.kill(worker.pid, signal.SIGKILL)
    bench.wait(lambda: not bench.left(job_id))
    assert not is_done(bench, "workerless")
    bench.start_worker()
    assert bench.wait_for(job_id, "done").launch == 6  # one more than there are tasks

    job_id = bench.launch("brokerless")
    wait_for_state(bench, "brokerless")
    bench.kill_broker()
    assert bench.wait_for(job_id, "done").launch == 5

    assert untouched.wait() == 0
    assert weights(bench, "workerless") == weights(bench, "untouched")
    assert weights(bench, "brokerless") == weights(bench, "untouched")


def test_a_stage_that_something_killed_is_told_from_one_that_failed(bench: Bench) -> None:
    """By the exit code: only the first is worth another try."""
    recipe = bench.recipe("shot")
    command = [sys.executable, "-m", "services.trainer", str(recipe), "--json"]
    trainer = subprocess.Popen(command, cwd=ROOT, env=bench.environment, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{trainer.pid}/task/{trainer.pid}/children")
    bench.wait(lambda: children.read_text().split())
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    _, errors = trainer.communicate(timeout=60)
    assert trainer.returncode == 3
    assert "was ended by SIGKILL" in errors
