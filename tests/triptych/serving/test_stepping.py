"""The step loop with counting requests: who steps when, and who is freed."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import NoReturn

import pytest

from triptych.errors import Unavailable
from triptych.serving import request_id
from triptych.serving.batching import Timing
from triptych.serving.metrics import Metrics
from triptych.serving.rotation import Rotation
from triptych.serving.stepping import StepLoop
from triptych.serving.watching import while_open


@dataclass(eq=False)
class Count:
    """Counts to `end`; fails at step `fails_at`."""

    end: int
    fails_at: int = 0
    step: int = 0

    @property
    def is_finished(self) -> bool:
        return self.step >= self.end


class Engine:
    def __init__(self) -> None:
        self.order: list[Count] = []
        self.ids: list[str] = []
        self.freed: list[Count] = []
        self.gate = threading.Event()
        self.gate.set()
        self.metrics = Metrics("count")
        self.loop = StepLoop(
            "count",
            Rotation[Count]("count", 2, 1),
            run=self.run,
            postprocess=lambda _, step: [step],
            free=self.freed.append,
            metrics=self.metrics,
        )

    def run(self, request: Count) -> int:
        assert threading.current_thread() is not threading.main_thread()
        self.gate.wait(10)
        request.step += 1
        self.order.append(request)
        self.ids.append(request_id.current.get())
        if request.step == request.fails_at:
            raise ZeroDivisionError("a bug")
        return request.step

    async def all(self, request: Count) -> list[int]:
        return [step async for step in self.loop.stream(request, Timing())]


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine()
    assert await made.loop.start(threading.get_ident) != threading.get_ident()
    yield made
    made.gate.set()
    await made.loop.stop()


async def test_requests_take_turns(engine: Engine) -> None:
    engine.gate.clear()
    a, b, c = Count(3), Count(2), Count(1)
    running = asyncio.gather(*(engine.all(each) for each in (a, b, c)))
    await asyncio.sleep(0.05)
    engine.gate.set()
    assert await running == [[1, 2, 3], [1, 2], [1]]
    assert engine.order == [a, b, a, b, a, c]
    assert set(engine.freed) == {a, b, c}
    assert engine.metrics.registry.get_sample_value("triptych_count_queued_ms_count") == 3


async def test_a_failing_step_concerns_its_request_only(engine: Engine) -> None:
    good, bad = Count(5), Count(5, fails_at=2)
    results = await asyncio.gather(engine.all(good), engine.all(bad), return_exceptions=True)
    assert results[0] == [1, 2, 3, 4, 5]
    assert isinstance(results[1], ZeroDivisionError)
    assert await engine.all(Count(1)) == [1]
    assert bad in engine.freed


async def test_leaving_during_a_step_frees_after_it(engine: Engine) -> None:
    engine.gate.clear()
    request = Count(100)
    task = asyncio.create_task(engine.all(request))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.sleep(0.05)
    assert engine.freed == []
    engine.gate.set()
    assert await engine.all(Count(1)) == [1]
    assert (engine.freed[0], request.step) == (request, 1)


async def test_leaving_while_waiting(engine: Engine) -> None:
    engine.gate.clear()
    tasks = [asyncio.create_task(engine.all(Count(2))) for _ in range(3)]
    await asyncio.sleep(0.05)
    tasks[2].cancel()
    await asyncio.sleep(0.05)
    engine.gate.set()
    assert await asyncio.gather(*tasks[:2]) == [[1, 2], [1, 2]]
    assert len(engine.freed) == 3


async def test_timing(engine: Engine) -> None:
    timing = Timing()
    async for _ in engine.loop.stream(Count(3), timing):
        pass
    assert timing.queued_ms >= 0
    assert timing.running_ms > 0


async def test_steps_know_their_request_by_its_id(engine: Engine) -> None:
    async def named(name: str) -> None:
        request_id.current.set(name)
        await engine.all(Count(3))

    await asyncio.gather(named("a"), named("b"))
    assert engine.ids == ["a", "b"] * 3


async def test_stopping_ends_what_runs() -> None:
    engine = Engine()
    await engine.loop.start(lambda: None)
    task = asyncio.create_task(engine.all(Count(10**9)))
    await asyncio.sleep(0.05)
    await engine.loop.stop()
    with pytest.raises(Unavailable):
        await task


async def test_watching_ends_the_answer() -> None:
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.sleep(60)
        finally:
            closed.set()

    async def watch() -> NoReturn:
        await asyncio.sleep(0.02)
        raise LookupError("gone")

    seen: list[int] = []
    with pytest.raises(LookupError, match="gone"):
        async for event in while_open(events(), watch()):
            seen.append(event)
    assert seen == [1]
    assert closed.is_set()


async def test_nobody_waits_for_an_engine_that_has_stopped(engine: Engine) -> None:
    await engine.loop.stop()
    with pytest.raises(Unavailable, match="has stopped"):
        await engine.all(Count(1))
