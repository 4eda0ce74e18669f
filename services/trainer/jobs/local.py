"""Workers of this machine: started in the background for those who only want to train, and stopped."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from services.trainer.jobs.embedded import EmbeddedRedis
from services.trainer.jobs.store import JobStore, LiveWorker
from triptych.errors import Unavailable

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.1


def start_worker(store: JobStore, embedded: EmbeddedRedis, queue: str) -> LiveWorker | None:
    """One that serves the queue, where there is none; returns it when it is ready. None where there was one.

    Raises Unavailable with the end of its log when it does not come up.
    """
    with embedded.locked("worker.lock"):
        if serving(store, queue):
            return None
        log = embedded.folder / "worker.log"
        runs = embedded.folder.parent
        command = [sys.executable, "-m", "services.trainer.jobs", "worker", "--runs", str(runs), "--queue", queue]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not (found := serving(store, queue)):
            if process.poll() is not None or time.monotonic() > deadline_s:
                process.kill()
                tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
                raise Unavailable(f"the worker did not start (log: {log})\n{tail}")
            time.sleep(POLL_S)
        return found


def serving(store: JobStore, queue: str) -> LiveWorker | None:
    """A worker that was killed is announced for some seconds more: on this machine, we can look."""
    for worker in store.workers():
        is_here = worker.host == socket.gethostname()
        if queue in worker.queues and not worker.stopping and (_is_worker(worker.pid) if is_here else True):
            return worker
    return None


def stop_workers(store: JobStore) -> list[LiveWorker]:
    """Those of this machine; each hands its job back first. SIGKILL for those that take too long."""
    workers = [worker for worker in store.workers() if worker.host == socket.gethostname() and _is_worker(worker.pid)]
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    for worker in workers:
        while _is_worker(worker.pid) and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        if _is_worker(worker.pid):
            os.kill(worker.pid, signal.SIGKILL)
        store.forget(worker.name)
    return workers


def _is_worker(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"services.trainer.jobs" in command and b"worker" in command
