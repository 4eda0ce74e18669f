"""Everything a job has started on this machine, found by a mark in its environment, and ended.

Process groups do not do: torch's launcher gives every rank a session of its own, and leaves all of them alive when it
is killed itself.
"""

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

MARK: Final = "TRIPTYCH_JOB_NODE"
POLL_S: Final = 0.05
PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def mark(job_id: str, node: int) -> dict[str, str]:
    """For the environment of what is started."""
    return {MARK: f"{job_id}/{node}"}


def marked(marks: dict[str, str]) -> list[int]:
    """Processes that carry the mark, this one left out. Those of other users cannot be looked into."""
    wanted = f"{MARK}={marks[MARK]}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with suppress(OSError):  # ended, or not ours
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def end_marked(marks: dict[str, str], grace_s: float) -> int:
    """SIGTERM to all of them, SIGKILL to those that are left; returns how many there were. Those it kills are gone."""
    found = marked(marks)
    _send(found, signal.SIGTERM if grace_s else signal.SIGKILL)
    deadline_s = time.monotonic() + grace_s
    while left := marked(marks):
        if time.monotonic() >= deadline_s:
            _send(left, signal.SIGKILL)
        time.sleep(POLL_S)
    return len(found)


def die_with_parent() -> None:
    """SIGKILL to this process as soon as its parent is gone, however it went. Linux only, as all of this."""
    if _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def _send(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
