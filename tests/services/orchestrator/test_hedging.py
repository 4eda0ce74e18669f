import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from services.orchestrator.hedging import MIN_DELAY_S, MIN_SAMPLES, RecentTimes, hedged
from triptych.errors import Unavailable


class Callee:
    """Answers with `name` after `seconds`, or fails then."""

    def __init__(self, name: str, seconds: float, error: Exception | None = None) -> None:
        self.name, self.seconds, self.error = name, seconds, error
        self.began = self.was_cancelled = False

    async def __call__(self) -> str:
        self.began = True
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        if self.error is not None:
            raise self.error
        return self.name


def nobody() -> Coroutine[Any, Any, str] | None:
    return None


def test_delay_is_the_high_quantile_for_this_size() -> None:
    times = RecentTimes()
    for index in range(MIN_SAMPLES - 1):
        times.add(0.1, 1)
        assert times.delay_s(1) is None, index
    times.add(1.0, 1)
    assert times.delay_s(1) == pytest.approx(1.0)
    for _ in range(100):
        times.add(0.6, 2)
    assert times.delay_s(1) == pytest.approx(0.3)
    assert times.delay_s(4) == pytest.approx(1.2)
    for _ in range(200):
        times.add(0.0001, 1)
    assert times.delay_s(1) == MIN_DELAY_S


@pytest.mark.parametrize("delay_s", [None, 1.0])
async def test_fast_call_is_left_alone(delay_s: float | None) -> None:
    first, second = Callee("first", 0.01), Callee("second", 0)
    assert await hedged(first, second, delay_s) == "first"
    assert not second.began


async def test_slow_call_is_overtaken_and_ended() -> None:
    first, second = Callee("first", 5), Callee("second", 0.01)
    assert await hedged(first, second, 0.02) == "second"
    assert first.was_cancelled


async def test_first_may_still_win() -> None:
    first, second = Callee("first", 0.05), Callee("second", 5)
    assert await hedged(first, second, 0.02) == "first"
    assert second.was_cancelled


async def test_nobody_is_idle() -> None:
    assert await hedged(Callee("first", 0.05), nobody, 0.01) == "first"


@pytest.mark.parametrize("failing", [0, 1])
async def test_failure_of_one_is_waited_out(failing: int) -> None:
    callees = [Callee("first", 0.05), Callee("second", 0.05)]
    callees[failing].error = Unavailable("gone")
    assert await hedged(callees[0], callees[1], 0.01) == callees[1 - failing].name


@pytest.mark.parametrize("second", [Callee("second", 0.01, Unavailable("two")), nobody])
async def test_failure_of_all_is_the_first_ones(second: Callable[[], Any]) -> None:
    with pytest.raises(Unavailable, match="one"):
        await hedged(Callee("first", 0.03, Unavailable("one")), second, 0.01)


async def test_cancelling_ends_both() -> None:
    callees = [Callee("first", 5), Callee("second", 5)]
    task = asyncio.create_task(hedged(callees[0], callees[1], 0.01))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert [callee.was_cancelled for callee in callees] == [True, True]
