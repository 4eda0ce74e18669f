import asyncio
from contextlib import AsyncExitStack

import pytest

from services.orchestrator.room import Room
from tests.services.orchestrator.fakes import until


async def test_who_finds_no_room_waits_for_it_in_turn() -> None:
    room, entered = Room(10), []

    async def take(name: str, num_bytes: int) -> None:
        async with room.taken(num_bytes):
            entered.append(name)

    async with AsyncExitStack() as first, AsyncExitStack() as second:
        await first.enter_async_context(room.taken(6))
        await second.enter_async_context(room.taken(4))
        waiting = [asyncio.create_task(take(name, size)) for name, size in (("large", 7), ("small", 1))]
        await asyncio.sleep(0.01)
        await second.aclose()
        await asyncio.sleep(0.01)
        assert entered == [], "the small one is behind the large one"
    await asyncio.gather(*waiting)
    assert entered == ["large", "small"]
    assert room.num_bytes == 0


async def test_more_than_all_of_it_goes_alone() -> None:
    room = Room(10)
    async with room.taken(1000):
        assert room.num_bytes == 10
    assert room.num_bytes == 0


async def test_one_who_gives_up_waiting_takes_nothing() -> None:
    room = Room(10)
    async with room.taken(10):
        waiting = asyncio.create_task(room.taken(5).__aenter__())
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(1), room.taken(10):
        await until(lambda: room.num_bytes == 10)
