"""The calls of one server: whether new ones are let in, and when the last one has ended."""

import asyncio
from typing import Any


class Calls:
    """Health checks, reflection and Describe are not counted: they are always let in, and nobody waits for them."""

    def __init__(self) -> None:
        self.closed_because = "starting"  # empty: open
        self.are_cut_off = False
        self._running: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def num_running(self) -> int:
        return len(self._running)

    def begin(self, task: asyncio.Task[Any]) -> None:
        self._running.add(task)
        self._idle.clear()

    def end(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not self._running:
            self._idle.set()

    def cut_off(self) -> None:
        """Cancels what runs; the callers get UNAVAILABLE."""
        self.are_cut_off = True
        for task in self._running:
            task.cancel()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Whether all calls ended in time."""
        if not self._running:
            return True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True
