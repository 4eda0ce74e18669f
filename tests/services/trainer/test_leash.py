"""What a process starts on a leash does not outlive it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from services.trainer.leash import leashed

ROOT = Path(__file__).parents[3]
SLEEPER = [sys.executable, "-S", "-c", "import time; print('here', flush=True); time.sleep(300)"]
PARENT = f"""
import subprocess, time
from services.trainer.leash import leashed
child = subprocess.Popen(leashed({SLEEPER!r}), stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(300)
"""


def test_it_is_killed_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_until_gone(child)


def test_it_does_not_begin_where_its_parent_is_gone() -> None:
    command = leashed(["echo", "here"])
    command[3] = "1"  # as when the parent went before: init is in its place
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")


def test_it_is_the_command() -> None:
    done = subprocess.run(leashed(["sh", "-c", "echo $PPID; exit 7"]), cwd=ROOT, capture_output=True)
    assert (done.returncode, int(done.stdout)) == (7, os.getpid())


def wait_until_gone(pid: int) -> None:
    deadline_s = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline_s, f"{pid} lives on"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """One that nobody waits for may stay on as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
