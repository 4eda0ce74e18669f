"""Who may start now, who waits, who is refused at once."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from triptych import traces
from triptych.errors import ResourceExhausted


class Admission:
    """At most `max_running` requests inside, at most `max_waiting` in front of the door, first come first served."""

    def __init__(self, max_running: int, max_waiting: int, retry_after_ms: int = 1000) -> None:
        self.max_running = max_running
        self.max_waiting = max_waiting
        self.num_running = 0
        self.num_waiting = 0
        self._retry_after_ms = retry_after_ms
        self._free = asyncio.Semaphore(max_running)

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[float]:
        """Waits for a place, and yields how long, in ms. Raises ResourceExhausted at once when the queue is full."""
        if self._free.locked() and self.num_waiting >= self.max_waiting:
            raise ResourceExhausted(
                f"{self.num_running} requests are running and {self.num_waiting} waiting, at most {self.max_running} "
                f"and {self.max_waiting}; retry after {self._retry_after_ms} ms",
                stage="orchestrator",
                retry_after_ms=self._retry_after_ms,
            )
        self.num_waiting += 1
        began = time.perf_counter()
        try:
            with traces.span("queue"):
                await self._free.acquire()
        finally:
            self.num_waiting -= 1
        self.num_running += 1
        try:
            yield (time.perf_counter() - began) * 1000
        finally:
            self.num_running -= 1
            self._free.release()
