import asyncio

import pytest

from triptych.serving.orchestrators import Orchestrators, Verdict


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heard(clock: Clock) -> Orchestrators:
    return Orchestrators(clock)


async def say(heard: Orchestrators, id_: str, is_chained: bool | None = True, num_pinned: int = 0) -> bool:
    await heard.hear(Verdict(id_, is_chained, "because", num_pinned))
    return heard.is_chained


async def test_one_refusal_outweighs(heard: Orchestrators, clock: Clock) -> None:
    assert not heard.is_chained
    assert await say(heard, "a")
    assert not await say(heard, "b", False)
    assert not await say(heard, "a")
    clock.now_s += 11
    assert await say(heard, "a"), "b has not been heard of for long"


async def test_while_nobody_can_tell_what_was_said_holds(heard: Orchestrators) -> None:
    assert not await say(heard, "a", None)
    assert await say(heard, "a")
    assert await say(heard, "a", None)


async def test_changes_are_told(heard: Orchestrators) -> None:
    told: list[bool] = []

    async def on_change(is_chained: bool) -> None:
        told.append(is_chained)

    heard.on_change = on_change
    for is_chained in (True, True, False, None, True):
        await say(heard, "a", is_chained)
    assert told == [True, False, True]


async def test_nobody_asks_so_nobody_is_waited_for(heard: Orchestrators) -> None:
    async with asyncio.timeout(1):
        await heard.wait_released(60)
    assert heard.is_draining


async def test_waits_until_nothing_is_pinned(heard: Orchestrators) -> None:
    await say(heard, "a", num_pinned=1)
    await say(heard, "b")
    waiting = asyncio.create_task(heard.wait_released(60))
    await asyncio.sleep(0)
    for num_pinned in (1, 1, 0):
        await say(heard, "a", num_pinned=num_pinned)
        await asyncio.sleep(0.01)
    assert not waiting.done(), "b has not learned yet that we drain"
    await say(heard, "b")
    await say(heard, "b")
    async with asyncio.timeout(1):
        await waiting


async def test_who_says_goodbye_is_not_waited_for(heard: Orchestrators) -> None:
    await say(heard, "a", is_chained=False)
    await say(heard, "b")
    await heard.hear(Verdict("a", None, is_last=True))
    assert heard.is_chained
    waiting = asyncio.create_task(heard.wait_released(60))
    await asyncio.sleep(0)
    await heard.hear(Verdict("b", None, is_last=True))
    async with asyncio.timeout(1):
        await waiting


async def test_does_not_wait_for_ever(heard: Orchestrators, clock: Clock) -> None:
    await say(heard, "a", num_pinned=1)
    waiting = asyncio.create_task(heard.wait_released(5))
    await asyncio.sleep(0)
    clock.now_s += 6
    await say(heard, "a", num_pinned=1)
    async with asyncio.timeout(1):
        await waiting


async def test_strangers_cannot_fill_the_memory(heard: Orchestrators) -> None:
    for number in range(1000):
        await say(heard, f"{number}")
    assert len(heard._heard) <= 256


async def test_strangers_who_fell_silent_make_room(heard: Orchestrators, clock: Clock) -> None:
    for number in range(256):
        await say(heard, f"{number}", is_chained=False)
    clock.now_s += 11
    assert await say(heard, "a")
