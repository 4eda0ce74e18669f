"""A trainer behind its guard: how long it may run."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.trainer.jobs.child import Child
from services.trainer.jobs.guard import EXPIRED, STOPPED
from services.trainer.jobs.processes import mark, marked

MARKS = mark(f"child-of-a-test-{os.getpid()}", 0)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    command = [sys.executable, "-S", "-c", "import time; time.sleep(300)"]
    child = Child(command, tmp_path, tmp_path / "log", MARKS, grace_s=0.2)
    yield child
    child.stop()


def test_it_runs_for_as_long_as_it_is_allowed_to(child: Child) -> None:
    start_s = time.monotonic()
    for _ in range(5):
        child.allow_until(time.monotonic() + 2.0)
        assert child.wait(0.2) is None
    child.allow_until(time.monotonic() + 0.2)
    assert child.wait(30) == EXPIRED
    assert time.monotonic() - start_s >= 1.2
    assert marked(MARKS) == []
    child.allow_until(time.monotonic() + 1)  # as before a supervisor sees that it has ended


def test_it_runs_until_it_is_stopped_where_nothing_was_said(child: Child) -> None:
    assert child.wait(0.5) is None
    child.stop()
    assert child.wait(0) == STOPPED
    assert marked(MARKS) == []
