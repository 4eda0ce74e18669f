"""When somebody was last heard, in any call, and answers that are waited for as long as something is heard."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Final, Generic, TypeVar

LOOK_S: Final = 0.1  # how often a silence is looked at while it lasts
MAX_STALL_S: Final = 0.3  # a timer that is later than this tells of our own event loop, not of who is asked

T = TypeVar("T")


class Hearing:
    """Of one replica. `silence_s()`: one that says nothing for so long although it was asked is taken for dead."""

    def __init__(self, silence_s: Callable[[], float]) -> None:
        self.silence_s = silence_s
        self._heard = 0.0

    def hear(self) -> None:
        """It said something."""
        self._heard = time.monotonic()

    def listened(self, call: AsyncIterable[T]) -> AsyncIterator[T]:
        """The messages of one of its calls: each is a sign of life."""
        return _Listened(aiter(call), self.hear)

    async def answer(self, call: Awaitable[T]) -> T:
        """Raises TimeoutError after `silence_s` in which nothing was heard. Time in which our own event loop stood
        still is nobody's silence.
        """
        asking = asyncio.ensure_future(call)
        asked = time.monotonic()
        try:
            while not asking.done():
                due = min(max(asked, self._heard) + self.silence_s(), time.monotonic() + LOOK_S)
                await asyncio.wait((asking,), timeout=max(0.0, due - time.monotonic()))
                now = time.monotonic()
                if now - due > MAX_STALL_S:
                    asked = now
                elif not asking.done() and max(asked, self._heard) + self.silence_s() <= now:
                    raise TimeoutError
            self.hear()
            return asking.result()
        finally:
            asking.cancel()


class _Listened(Generic[T]):
    """No generator: one that is left half-way would wait for the garbage collector."""

    def __init__(self, messages: AsyncIterator[T], hear: Callable[[], None]) -> None:
        self._messages = messages
        self._hear = hear

    def __aiter__(self) -> "_Listened[T]":
        return self

    async def __anext__(self) -> T:
        message = await anext(self._messages)
        self._hear()
        return message
