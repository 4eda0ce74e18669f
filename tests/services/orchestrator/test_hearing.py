import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from services.orchestrator.hearing import Hearing

SILENCE_S = 0.2


async def tokens(num: int, pause_s: float) -> AsyncIterator[int]:
    for token in range(num):
        await asyncio.sleep(pause_s)
        yield token


async def test_an_answer_is_passed_on() -> None:
    assert await Hearing(lambda: SILENCE_S).answer(asyncio.sleep(0, "card")) == "card"


async def test_the_callers_own_error_is_passed_on() -> None:
    async def refused() -> None:
        raise ConnectionError("reset")

    with pytest.raises(ConnectionError, match="reset"):
        await Hearing(lambda: SILENCE_S).answer(refused())


async def test_silence_ends_the_wait() -> None:
    never = asyncio.get_running_loop().create_future()
    asked = time.monotonic()
    with pytest.raises(TimeoutError):
        await Hearing(lambda: SILENCE_S).answer(never)
    assert time.monotonic() - asked >= SILENCE_S
    assert never.cancelled()


async def test_whoever_streams_is_not_silent() -> None:
    """An answer may take far longer than the silence that would mean death, while messages of another call come."""
    hearing = Hearing(lambda: SILENCE_S)

    async def read() -> list[int]:
        return [token async for token in hearing.listened(tokens(10, SILENCE_S / 3))]

    reading = asyncio.create_task(read())
    assert await hearing.answer(asyncio.sleep(2.5 * SILENCE_S, "late")) == "late"
    assert await reading == list(range(10))


async def test_a_loop_that_stood_still_heard_nobody() -> None:
    """Time in which this process did not run is not held against the replica."""
    hearing = Hearing(lambda: SILENCE_S)
    answer = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(hearing.answer(answer))
    await asyncio.sleep(0)
    time.sleep(5 * SILENCE_S)  # noqa: ASYNC251
    await asyncio.sleep(0.01)
    assert not waiting.done()
    answer.set_result("card")
    assert await waiting == "card"
