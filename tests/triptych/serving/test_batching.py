"""The worker: one at a time, in order, bounded; what nobody waits for any more is dropped."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import aclosing
from functools import partial

import pytest

from triptych.errors import ResourceExhausted, Unavailable
from triptych.serving import request_id
from triptych.serving.batching import Load, Timing, Worker


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    worker = Worker("encoder", max_queue_size=3)
    yield worker
    await worker.close()


class Gate:
    """Work that runs until it is let go, and says when it has started."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.open = threading.Event()

    def pass_through(self) -> str:
        self.started.set()
        assert self.open.wait(10)
        return "through"


class Pictures(list[bytes]):
    """A request's, and as large; a plain list cannot be watched."""


async def occupied(worker: Worker) -> tuple[Gate, asyncio.Task[str]]:
    """A worker whose thread is busy until the gate opens."""
    gate = Gate()
    task = asyncio.create_task(worker.run(gate.pass_through))
    await asyncio.to_thread(gate.started.wait, 10)
    return gate, task


async def settled() -> None:
    """Lets tasks that are ready to go reach the queue."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_runs_on_one_thread_of_its_own(worker: Worker) -> None:
    names = {await worker.run(lambda: threading.current_thread().name) for _ in range(5)}
    assert names == {"encoder_0"}


async def test_passes_arguments_and_results(worker: Worker) -> None:
    assert await worker.run(divmod, 7, 3) == (2, 1)
    assert await worker.run(sorted, [1, 3, 2], reverse=True) == [3, 2, 1]


async def test_passes_errors(worker: Worker) -> None:
    with pytest.raises(ZeroDivisionError):
        await worker.run(divmod, 1, 0)
    assert await worker.run(divmod, 1, 1) == (1, 0)


def too_much_for_torch() -> object:
    import torch

    return torch.empty(2**50, dtype=torch.uint8)


def too_much_for_python() -> object:
    return bytearray(2**62)


def out_of_memory_on_the_gpu() -> object:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


@pytest.mark.parametrize("work", [too_much_for_torch, too_much_for_python, out_of_memory_on_the_gpu])
async def test_running_out_of_memory_fails_the_request_alone(worker: Worker, work: Callable[[], object]) -> None:
    with pytest.raises(ResourceExhausted, match="encoder ran out of memory over this request") as caught:
        await worker.run(work)
    assert caught.value.retry_after_ms == 0, "it would not fit later either"
    assert await worker.run(lambda: "next") == "next"


async def test_what_took_the_memory_is_gone_before_the_error_is_looked_at(worker: Worker) -> None:
    seen: list[weakref.ref[Pictures]] = []

    def work() -> None:
        pictures = Pictures()
        seen.append(weakref.ref(pictures))
        raise MemoryError

    with pytest.raises(ResourceExhausted) as caught:
        await worker.run(work)
    assert isinstance(caught.value.__cause__, MemoryError)
    assert seen[0]() is None


async def test_running_out_of_memory_while_loading_is_no_requests_fault(worker: Worker) -> None:
    with pytest.raises(ResourceExhausted, match="encoder ran out of memory while it loaded its component"):
        await worker.start(too_much_for_python)


async def test_other_runtime_errors_stay_what_they_are(worker: Worker) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        await worker.run(lambda: (_ for _ in ()).throw(RuntimeError("shapes do not match")))


async def test_first_in_first_out(worker: Worker) -> None:
    gate, first = await occupied(worker)
    order: list[int] = []
    tasks = [asyncio.create_task(worker.run(order.append, n)) for n in range(3)]
    await settled()
    gate.open.set()
    await asyncio.gather(first, *tasks)
    assert order == [0, 1, 2]


async def test_refuses_above_the_bound_and_recovers(worker: Worker) -> None:
    gate, first = await occupied(worker)
    waiting = [asyncio.create_task(worker.run(divmod, 1, 1)) for _ in range(3)]
    await settled()
    assert worker.load == Load(num_running=1, num_waiting=3, max_waiting=3)
    with pytest.raises(ResourceExhausted, match="encoder queue is full: 3 waiting, at most 3") as caught:
        await worker.run(divmod, 1, 1)
    assert caught.value.retry_after_ms >= 1
    with pytest.raises(ResourceExhausted):
        await anext(worker.stream(count, 3))
    gate.open.set()
    await asyncio.gather(first, *waiting)
    assert await worker.run(divmod, 1, 1) == (1, 0)
    assert worker.load == Load(0, 0, 3)


async def test_loading_is_no_measure_of_when_to_come_back(worker: Worker) -> None:
    assert await worker.start(partial(time.sleep, 0.5)) is None
    gate, first = await occupied(worker)
    waiting = [asyncio.create_task(worker.run(divmod, 1, 1)) for _ in range(3)]
    await settled()
    with pytest.raises(ResourceExhausted) as caught:
        await worker.run(divmod, 1, 1)
    assert caught.value.retry_after_ms == 1
    gate.open.set()
    await asyncio.gather(first, *waiting)


async def test_cancelled_entries_free_their_place_and_never_run(worker: Worker) -> None:
    gate, first = await occupied(worker)
    ran: list[int] = []
    tasks = [asyncio.create_task(worker.run(ran.append, n)) for n in range(3)]
    await settled()
    tasks[1].cancel()
    await settled()
    assert worker.load.num_waiting == 2
    late = asyncio.create_task(worker.run(ran.append, 9))
    await settled()
    gate.open.set()
    await asyncio.gather(first, tasks[0], tasks[2], late)
    assert ran == [0, 2, 9]
    assert tasks[1].cancelled()


async def test_cancelled_entries_are_forgotten_while_the_thread_is_busy(worker: Worker) -> None:
    gate, first = await occupied(worker)
    pictures = Pictures()
    watched = weakref.ref(pictures)
    reads = asyncio.ensure_future(anext(worker.stream(iterate, pictures)))
    await settled()
    reads.cancel()
    await asyncio.wait((reads,))
    del pictures, reads
    gc.collect()
    assert watched() is None
    gate.open.set()
    await first


async def test_a_running_entry_is_finished_though_its_caller_left(worker: Worker) -> None:
    gate, first = await occupied(worker)
    first.cancel()
    await settled()
    assert worker.load.num_running == 1
    gate.open.set()
    assert await worker.run(divmod, 1, 1) == (1, 0)
    assert worker.load == Load(0, 0, 3)


async def test_the_loop_stays_responsive(worker: Worker) -> None:
    blocking = asyncio.create_task(worker.run(time.sleep, 0.5))
    longest = 0.0
    while not blocking.done():
        before = time.perf_counter()
        await asyncio.sleep(0.005)
        longest = max(longest, time.perf_counter() - before)
    assert longest < 0.25


async def test_measures_queued_and_running(worker: Worker) -> None:
    timing = Timing()
    blocking = asyncio.create_task(worker.run(time.sleep, 0.2))
    await settled()
    await worker.timed(timing, time.sleep, 0.1)
    await blocking
    assert 100 < timing.queued_ms < 2000
    assert 90 < timing.running_ms < 1000
    before = timing.running_ms
    await worker.timed(timing, time.sleep, 0.05)
    assert timing.running_ms > before + 40


async def test_the_request_id_reaches_the_thread(worker: Worker) -> None:
    token = request_id.current.set("abc")
    assert await worker.run(request_id.current.get) == "abc"
    request_id.current.reset(token)


def iterate(items: list[bytes]) -> Generator[bytes, None, None]:
    yield from items


def count(up_to: int) -> Generator[int, None, None]:
    yield from range(up_to)


class Steps:
    """An endless generator that counts its steps and says when it was closed."""

    def __init__(self, error: Exception | None = None) -> None:
        self.num_steps = 0
        self.closed = threading.Event()
        self.may_go_on = threading.Semaphore(0)
        self._error = error

    def run(self) -> Generator[int, None, None]:
        try:
            while True:
                self.num_steps += 1
                yield self.num_steps
                if self._error is not None:
                    raise self._error
                assert self.may_go_on.acquire(timeout=10)
        finally:
            self.closed.set()


async def test_streams_items(worker: Worker) -> None:
    assert [item async for item in worker.stream(count, 5)] == [0, 1, 2, 3, 4]
    assert [item async for item in worker.stream(count, 0)] == []
    assert worker.load == Load(0, 0, 3)


async def test_items_come_out_as_they_are_made(worker: Worker) -> None:
    steps = Steps()
    async with aclosing(worker.stream(steps.run)) as items:
        assert await anext(items) == 1
        assert steps.num_steps == 1
        steps.may_go_on.release()
        assert await anext(items) == 2
        steps.may_go_on.release()


async def test_a_stream_passes_errors_after_its_items(worker: Worker) -> None:
    steps = Steps(error=ValueError("nan at step 2"))
    seen = []
    with pytest.raises(ValueError, match="nan at step 2"):
        async for item in worker.stream(steps.run):
            seen.append(item)
    assert seen == [1]
    assert steps.closed.is_set()


@pytest.mark.parametrize("how", ["break", "aclose", "cancel"])
async def test_a_stream_is_closed_within_one_step(worker: Worker, how: str) -> None:
    steps = Steps()
    got_one = asyncio.Event()

    async def consume() -> None:
        stream = worker.stream(steps.run)
        async for _ in stream:
            got_one.set()
            if how == "break":
                break
            if how == "aclose":
                await stream.aclose()
                return

    consumer = asyncio.create_task(consume())
    await got_one.wait()
    if how == "cancel":
        consumer.cancel()
    await asyncio.wait((consumer,))
    await settled()
    steps.may_go_on.release()
    assert await asyncio.to_thread(steps.closed.wait, 5)
    assert steps.num_steps == 2
    assert await worker.run(divmod, 1, 1) == (1, 0)
    assert worker.load == Load(0, 0, 3)


async def test_a_stream_left_before_its_turn_never_starts(worker: Worker) -> None:
    gate, first = await occupied(worker)
    steps = Steps()
    consumer = asyncio.ensure_future(anext(worker.stream(steps.run)))
    await settled()
    assert worker.load.num_waiting == 1
    consumer.cancel()
    await asyncio.wait((consumer,))
    await settled()
    assert worker.load.num_waiting == 0
    gate.open.set()
    await first
    assert steps.num_steps == 0


async def test_a_stream_is_measured(worker: Worker) -> None:
    timing = Timing()
    assert [item async for item in worker.timed_stream(timing, count, 3)] == [0, 1, 2]
    assert timing.queued_ms >= 0
    assert timing.running_ms > 0


async def test_closing_refuses_drops_and_stops() -> None:
    worker = Worker("decoder", max_queue_size=3)
    steps = Steps()
    stream = worker.stream(steps.run)
    assert await anext(stream) == 1
    waiting = asyncio.create_task(worker.run(divmod, 1, 1))
    await settled()
    closing = asyncio.create_task(worker.close())
    with pytest.raises(Unavailable, match="decoder is stopping"):
        await waiting
    with pytest.raises(Unavailable, match="decoder is stopping"):
        await worker.run(divmod, 1, 1)
    steps.may_go_on.release()
    await asyncio.wait_for(closing, 5)
    assert steps.closed.is_set()
    with pytest.raises(Unavailable, match="decoder is stopping"):
        await anext(stream)
