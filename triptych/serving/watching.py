"""Answering while listening: what the client does meanwhile may end the answer."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Final, NoReturn, TypeVar

T = TypeVar("T")

_END: Final = object()


async def while_open(events: AsyncGenerator[T, None], watch: Coroutine[Any, Any, NoReturn]) -> AsyncGenerator[T, None]:
    """Yields `events` to their end; what `watch` raises in the meantime is raised at once. Either way `events` is
    closed when this is."""
    watcher = asyncio.create_task(watch)
    upcoming = asyncio.create_task(_next(events))
    try:
        while True:
            await asyncio.wait((watcher, upcoming), return_when=asyncio.FIRST_COMPLETED)
            if not upcoming.done():
                watcher.result()
            item = upcoming.result()
            if item is _END:
                return
            yield item  # type: ignore[misc]
            upcoming = asyncio.create_task(_next(events))
    finally:
        watcher.cancel()
        upcoming.cancel()
        await asyncio.wait((watcher, upcoming))
        for task in (watcher, upcoming):  # one that nobody asks for its error complains in the logs
            if not task.cancelled():
                task.exception()
        await events.aclose()


async def _next(events: AsyncGenerator[T, None]) -> T | object:
    return await anext(events, _END)
