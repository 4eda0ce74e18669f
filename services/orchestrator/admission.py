"""Who may start now, who waits, who is refused at once."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from triptych import traces
from triptych.errors import ResourceExhausted


class Admission:
    """At most `max_running` requests inside, at most `max_waiting` in front of the door, first come first served; the
    messages of all of them take at most `max_bytes`, but that one alone may always come in."""

    def __init__(self, max_running: int, max_waiting: int, max_bytes: int, retry_after_ms: int = 1000) -> None:
        self.max_running = max_running
        self.max_waiting = max_waiting
        self.max_bytes = max_bytes
        self.num_running = 0
        self.num_waiting = 0
        self.num_bytes = 0
        self._retry_after_ms = retry_after_ms
        self._free = asyncio.Semaphore(max_running)

    @asynccontextmanager
    async def admitted(self, num_bytes: int) -> AsyncIterator[float]:
        """Waits for a place, and yields how long, in ms. Raises ResourceExhausted at once when the queue is full, or
        when there is no room for a message of `num_bytes`."""
        self._check(num_bytes)
        self.num_bytes += num_bytes
        try:
            waited_ms = await self._waited()
            self.num_running += 1
            try:
                yield waited_ms
            finally:
                self.num_running -= 1
                self._free.release()
        finally:
            self.num_bytes -= num_bytes

    def _check(self, num_bytes: int) -> None:
        if self._free.locked() and self.num_waiting >= self.max_waiting:
            raise self._refused(
                f"{self.num_running} requests are running and {self.num_waiting} waiting, at most {self.max_running} "
                f"and {self.max_waiting}"
            )
        if self.num_bytes and self.num_bytes + num_bytes > self.max_bytes:
            raise self._refused(
                f"requests running and waiting have {self.num_bytes} bytes, with {num_bytes} more they would have more "
                f"than {self.max_bytes}"
            )

    def _refused(self, why: str) -> ResourceExhausted:
        message = f"{why}; retry after {self._retry_after_ms} ms"
        return ResourceExhausted(message, stage="orchestrator", retry_after_ms=self._retry_after_ms)

    async def _waited(self) -> float:
        """How long for a place, in ms."""
        self.num_waiting += 1
        began = time.perf_counter()
        try:
            with traces.span("queue"):
                await self._free.acquire()
        finally:
            self.num_waiting -= 1
        return (time.perf_counter() - began) * 1000
