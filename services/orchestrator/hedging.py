"""A call that has taken so long that asking a second replica pays. Plain Python."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

NUM_KEPT: Final = 128
MIN_SAMPLES: Final = 20
QUANTILE: Final = 0.95
MIN_DELAY_S: Final = 0.02  # below this there is nothing to win


class RecentTimes:
    """Of calls of one card: seconds for a unit of work."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=NUM_KEPT)

    def add(self, seconds: float, num_units: int) -> None:
        self._times.append(seconds / num_units)

    def delay_s(self, num_units: int) -> float | None:
        """What 95 of 100 calls of this size stay below; None while too few were seen."""
        if len(self._times) < MIN_SAMPLES:
            return None
        times = sorted(self._times)
        return max(MIN_DELAY_S, num_units * times[int(QUANTILE * len(times))])


async def hedged(
    first: Callable[[], Coroutine[Any, Any, T]],
    second: Callable[[], Coroutine[Any, Any, T] | None],
    delay_s: float | None,
) -> T:
    """What `first` returns, or what `second` does, begun after `delay_s`, if that is sooner; the other one is ended.
    None for either: no second. One that fails while the other runs is waited out. Raises what `first` raises."""
    if delay_s is None:
        return await first()
    tasks = [asyncio.create_task(first())]
    try:
        await asyncio.wait(tasks, timeout=delay_s)
        if not tasks[0].done() and (other := second()) is not None:
            tasks.append(asyncio.create_task(other))
        running = set(tasks)
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled() and task.exception() is None:
                    return task.result()
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
