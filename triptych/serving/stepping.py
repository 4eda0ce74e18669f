"""The loop of an engine whose requests take many steps: schedule -> run -> postprocess, a step at a time.

The event loop schedules and postprocesses; the step itself runs on one worker thread. Knows nothing of models.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from triptych import traces
from triptych.errors import Unavailable
from triptych.serving import request_id
from triptych.serving.batching import Load, Timing, Worker
from triptych.serving.metrics import Metrics
from triptych.serving.step_spans import StepSpans


class Request(Protocol):
    """Compared and hashed by identity."""

    @property
    def is_finished(self) -> bool: ...


R = TypeVar("R", bound=Request)
Output = TypeVar("Output")
Event = TypeVar("Event")
T = TypeVar("T")

_END: Final = object()


class Scheduler(Protocol[R]):
    """`triptych.serving.rotation.Rotation`, or a service's own."""

    @property
    def load(self) -> Load: ...

    def add(self, request: R) -> None: ...

    def schedule(self) -> R | None: ...

    def remove(self, request: R) -> None: ...


class StepLoop(Generic[R, Output, Event]):
    """Runs the steps of all requests and hands each its events. Use from one event loop.

    `run` does one step, on the worker thread; `postprocess` turns its output into events; `free` drops whatever `run`
    keeps for a request, and never runs at the same time as a step of that request. `phase` names the step that comes
    next, one of few names: spans and metrics tell phases apart.
    """

    def __init__(
        self,
        name: str,
        scheduler: Scheduler[R],
        *,
        run: Callable[[R], Output],
        postprocess: Callable[[R, Output], Sequence[Event]],
        free: Callable[[R], None],
        metrics: Metrics,
        phase: Callable[[R], str] = lambda _: "step",
    ) -> None:
        self._worker = Worker(name, max_queue_size=1)  # only the loop submits, one step at a time
        self._scheduler = scheduler
        self._run, self._postprocess, self._free = run, postprocess, free
        self._phase = phase
        self._step_ms = metrics.histogram_ms("step", "duration of one step", ["phase"])
        self._queued_ms = metrics.histogram_ms("queued", "time from arrival to the first step")
        metrics.gauge("requests_running", "requests that take turns", lambda: scheduler.load.num_running)
        metrics.gauge("requests_waiting", "requests that wait for a place", lambda: scheduler.load.num_waiting)
        self._entries: dict[R, _Entry] = {}
        self._stepping: R | None = None
        self._has_work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, load: Callable[[], T]) -> T:
        """What `load` returns, from the worker thread; then requests are run."""
        loaded = await self._worker.start(load)
        self._task = asyncio.create_task(self._loop())
        self._task.add_done_callback(lambda _: self._end_all())
        return loaded

    async def stop(self) -> None:
        """Ends what still runs with Unavailable."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self._worker.close()

    async def stream(self, request: R, timing: Timing) -> AsyncGenerator[Event, None]:
        """The request's events until it is finished; `timing` follows it. Leaving early frees it within one step.
        Raises ResourceExhausted when the queue is full, Unavailable when nothing is run any more, and whatever one of
        its steps raises."""
        if self._task is None or self._task.done():
            raise Unavailable("the engine has stopped")
        self._scheduler.add(request)
        parent = traces.current()
        entry = self._entries[request] = _Entry(
            timing, StepSpans(parent) if parent.is_traced else None, traces.exemplar()
        )
        self._has_work.set()
        try:
            while (event := await entry.events.get()) is not _END:
                if isinstance(event, BaseException):
                    raise event
                yield event  # type: ignore[misc]
        finally:
            self._leave(request)

    async def _loop(self) -> None:
        while True:
            request = self._scheduler.schedule()
            if request is None:
                self._has_work.clear()
                await self._has_work.wait()
            else:
                await self._step(request)

    async def _step(self, request: R) -> None:
        """An error, whatever it is, belongs to the request whose step raised it: the others go on."""
        entry = self._entries[request]
        phase = self._phase(request)
        if entry.started is None:
            self._queued_ms.observe(entry.begin(), entry.exemplar)
        if entry.spans:
            entry.spans.begin_step(phase)
        self._stepping = request
        step = asyncio.create_task(self._advance(request, phase, entry))
        await asyncio.wait((step,))
        self._stepping = None
        error = step.exception()
        if request not in self._entries:
            self._free(request)
            return
        entry.end_step()
        for event in () if error else step.result():
            entry.events.put_nowait(event)
        if error or request.is_finished:
            self._leave(request, error)
            entry.events.put_nowait(error or _END)

    async def _advance(self, request: R, phase: str, entry: "_Entry") -> Sequence[Event]:
        request_id.current.set(entry.request_id)  # this task is the loop's: for what the step writes to the log
        started = time.perf_counter()
        output = await self._worker.run(self._run, request)
        running_ms = (time.perf_counter() - started) * 1000
        self._step_ms.labels(phase).observe(running_ms, entry.exemplar)
        if entry.spans:
            entry.spans.end_step(running_ms)
        return self._postprocess(request, output) if request in self._entries else ()

    def _leave(self, request: R, error: BaseException | None = None) -> None:
        """Once per request: it is finished, failed, or nobody listens any more."""
        entry = self._entries.pop(request, None)
        if entry is None:
            return
        if entry.spans:
            entry.spans.close(error)
        self._scheduler.remove(request)
        if request is not self._stepping:  # otherwise freed when its step has ended
            self._free(request)

    def _end_all(self) -> None:
        for entry in self._entries.values():
            entry.events.put_nowait(Unavailable("the engine is stopping"))


@dataclass
class _Entry:
    """What the loop keeps of a request."""

    timing: Timing
    spans: StepSpans | None = None
    exemplar: dict[str, str] | None = None
    request_id: str = field(default_factory=request_id.current.get)
    events: asyncio.Queue[object] = field(default_factory=asyncio.Queue)
    added: float = field(default_factory=time.perf_counter)
    started: float | None = None

    def begin(self) -> float:
        """At the first step: milliseconds queued."""
        self.started = time.perf_counter()
        self.timing.queued_ms = (self.started - self.added) * 1000
        return self.timing.queued_ms

    def end_step(self) -> None:
        assert self.started is not None
        self.timing.running_ms = (time.perf_counter() - self.started) * 1000
