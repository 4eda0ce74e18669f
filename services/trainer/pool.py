"""Worker processes that end when they should: with the work, at Ctrl-C, and with the process that started them."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, connection, get_context, parent_process, resource_tracker
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def worker_pool(num_workers: int) -> Iterator[Executor]:
    # Spawned, not forked: threads of the libraries in this process would not survive a fork.
    pool = _Pool(num_workers, get_context("spawn"), _begin_worker)
    resource_tracker.ensure_running()  # it would let Ctrl-C in again where it is started together with a worker
    try:
        yield pool
    except KeyboardInterrupt:
        for worker in active_children():
            worker.terminate()
        raise
    finally:
        # The pool drops what waits by itself: futures cancelled from here would trip it when its workers are gone.
        pool.shutdown(cancel_futures=True)


class _Pool(ProcessPoolExecutor):
    """Workers are started as tasks come."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        with _interrupts_held():
            return super().submit(fn, *args, **kwargs)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process that is started within has Ctrl-C waiting until it lets it in."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    """Ctrl-C ends a worker at once and without a word, in the middle of a step: what it had not finished is not
    there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """However the parent ended."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
