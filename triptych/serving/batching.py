"""One worker thread behind a bounded queue: model code runs here, one entry at a time, never on the event loop."""

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from threading import Event, Lock
from typing import Final, ParamSpec, TypeVar

from triptych import traces
from triptych.errors import ResourceExhausted, Unavailable
from triptych.serving.memory import forget_frames, is_out_of_memory, too_large

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_END: Final = object()


@dataclass(frozen=True)
class Load:
    """How busy a replica is."""

    num_running: int
    num_waiting: int
    max_waiting: int


@dataclass
class Timing:
    """Filled by the worker: where a request's time went. Several runs add up."""

    queued_ms: float = 0.0
    running_ms: float = 0.0


class Worker:
    """First in, first out. An entry whose caller was cancelled leaves the queue at once; one that already runs is
    finished (`run`) or stopped at its next yield (`stream`). Use from one event loop."""

    def __init__(self, name: str, max_queue_size: int) -> None:
        self._name = name
        self._max_queue_size = max_queue_size
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._lock = Lock()
        self._num_waiting = 0
        self._num_running = 0
        self._mean_running_ms = 0.0
        self._closing = Event()

    @property
    def load(self) -> Load:
        with self._lock:
            return Load(self._num_running, self._num_waiting, self._max_queue_size)

    async def start(self, load: Callable[[], T]) -> T:
        """`load()` on the worker thread, before any request: its time says nothing about when to come back."""
        try:
            loaded = await self.run(load)
        except ResourceExhausted as error:  # of memory: nobody waits yet
            raise ResourceExhausted(f"{self._name} ran out of memory while it loaded its component") from error
        with self._lock:
            self._mean_running_ms = 0.0
        return loaded

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`fn(*args)` on the worker thread. Raises ResourceExhausted when `max_queue_size` entries wait."""
        return await self.timed(Timing(), fn, *args, **kwargs)

    async def timed(self, timing: Timing, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, and adds to `timing`."""
        future = self._submit(timing, partial(fn, *args, **kwargs))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if future.cancelled():  # by `close`, unless the caller itself was cancelled
                self._refuse_if_closing()
            raise

    def stream(
        self, fn: Callable[P, Generator[T, None, None]], *args: P.args, **kwargs: P.kwargs
    ) -> AsyncGenerator[T, None]:
        """Runs the generator `fn(*args)` on the worker thread; items come out as they are made. It does not wait for a
        slow reader: that would hold up everyone behind it."""
        return self.timed_stream(Timing(), fn, *args, **kwargs)

    async def timed_stream(
        self, timing: Timing, fn: Callable[P, Generator[T, None, None]], *args: P.args, **kwargs: P.kwargs
    ) -> AsyncGenerator[T, None]:
        """As `stream`, and adds to `timing`."""
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[object] = asyncio.Queue()
        abandoned = Event()

        def emit(item: object) -> None:
            loop.call_soon_threadsafe(items.put_nowait, item)

        def drive() -> None:
            with closing(fn(*args, **kwargs)) as generator:
                for item in generator:
                    if abandoned.is_set():
                        return
                    self._refuse_if_closing()
                    emit(item)

        future = self._submit(timing, drive)
        future.add_done_callback(lambda _: emit(_END))
        try:
            while (item := await items.get()) is not _END:
                yield item  # type: ignore[misc]
            if future.cancelled():
                self._refuse_if_closing()
            future.result()
        finally:
            abandoned.set()
            future.cancel()

    async def close(self) -> None:
        """Refuses new entries, drops the waiting ones with Unavailable, stops streams at their next yield, and returns
        when the thread has ended."""
        self._closing.set()
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)

    def _submit(self, timing: Timing, call: Callable[[], T]) -> Future[T]:
        self._refuse_if_closing()
        with self._lock:
            if self._num_waiting >= self._max_queue_size:
                raise ResourceExhausted(
                    f"{self._name} queue is full: {self._num_waiting} waiting, at most {self._max_queue_size}",
                    retry_after_ms=max(1, round(self._mean_running_ms)),
                )
            self._num_waiting += 1
        context = contextvars.copy_context()
        waiting = [call]
        future = self._executor.submit(context.run, self._measured, timing, time.perf_counter(), waiting)
        future.add_done_callback(partial(self._left, waiting))
        return future

    def _measured(self, timing: Timing, submitted: float, waiting: list[Callable[[], T]]) -> T:
        call = waiting.pop()
        started = time.perf_counter()
        queued_ms = (started - submitted) * 1000
        timing.queued_ms += queued_ms
        traces.current().past("queue", queued_ms)
        with self._lock:
            self._num_waiting -= 1
            self._num_running += 1
        try:
            return call()
        except Exception as error:
            if is_out_of_memory(error):
                log.error("out of memory", exc_info=error)
                forget_frames(error)  # now: the caller may be slow to ask for the error, the next entry is not
                raise too_large(self._name) from error
            raise
        finally:
            running_ms = (time.perf_counter() - started) * 1000
            timing.running_ms += running_ms
            with self._lock:
                self._num_running -= 1
                self._mean_running_ms += 0.2 * (running_ms - self._mean_running_ms)

    def _left(self, waiting: list[Callable[[], T]], future: Future[T]) -> None:
        """An entry that was cancelled never started: give its place back, and what it was to work on. The executor
        keeps its own part of it until the thread comes by."""
        if future.cancelled():
            waiting.clear()
            with self._lock:
                self._num_waiting -= 1

    def _refuse_if_closing(self) -> None:
        if self._closing.is_set():
            raise Unavailable(f"{self._name} is stopping")
