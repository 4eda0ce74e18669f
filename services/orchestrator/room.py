"""Room for what is large and short-lived: those who need some wait until there is enough."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Room:
    """At most `max_bytes` are taken at a time, first come first served. Who needs more than that gets all of it."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def taken(self, num_bytes: int) -> AsyncIterator[None]:
        """Waits for `num_bytes`, and gives them back at the end."""
        share = min(num_bytes, self.max_bytes)
        async with self._turn:
            while self.num_bytes + share > self.max_bytes:
                self._freed.clear()
                await self._freed.wait()
            self.num_bytes += share
        try:
            yield
        finally:
            self.num_bytes -= share
            self._freed.set()
