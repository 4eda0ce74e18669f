"""What the embedder holds in memory, seen through whole requests."""

import asyncio
import gc

import pytest

from services.orchestrator import embedder
from tests.services.orchestrator.cards import picture
from tests.services.orchestrator.fakes import until
from tests.services.orchestrator.system import System


class Png(bytes):
    """Found by the garbage collector, which does not know plain bytes."""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was called to decode a picture, in order."""
    calls: list[str] = []
    normalise, check = embedder.normalise, embedder.check

    def counted_normalise(data: bytes, max_pixels: int, name: str) -> bytes:
        calls.append("normalise")
        return Png(normalise(data, max_pixels, name))

    def counted_check(data: bytes, max_pixels: int, name: str) -> int:
        calls.append("check")
        return check(data, max_pixels, name)

    monkeypatch.setattr(embedder, "normalise", counted_normalise)
    monkeypatch.setattr(embedder, "check", counted_check)
    return calls


def num_pngs() -> int:
    return sum(type(found) is Png for found in gc.get_objects())


async def test_a_picture_that_comes_ten_times_is_decoded_for_one(system: System, made: list[str]) -> None:
    await system.start()
    await system.respond(system.request("what?", *[picture("red")] * 10, task="UNDERSTAND"))
    assert made == ["check", "normalise"]
    assert len(system.encoder.images) == 1


async def test_decoded_pictures_go_once_they_are_encoded(system: System, made: list[str]) -> None:
    system.encoder.hold, system.llm.hold = asyncio.Event(), asyncio.Event()
    await system.start()
    replying = asyncio.create_task(
        system.respond(system.request("what?", picture("red"), picture("blue"), task="UNDERSTAND"))
    )
    await until(lambda: system.encoder.num_running == 1)
    assert num_pngs() == 2
    system.encoder.hold.set()
    await until(lambda: system.llm.num_running == 1)
    assert num_pngs() == 0
    system.llm.hold.set()
    await replying


async def test_pictures_wait_for_room_to_be_decoded_in(system: System, made: list[str]) -> None:
    system.settings["max_decoded_bytes"] = 3 * 8 * 8 * 2 - 1  # for one of the pictures below, not for two
    system.encoder.hold = asyncio.Event()
    await system.start()
    requests = [system.request("what?", picture(colour), task="UNDERSTAND") for colour in ("red", "blue")]
    replying = [asyncio.create_task(system.respond(request)) for request in requests]
    await until(lambda: made.count("check") == 2 and system.encoder.num_running == 1)
    await asyncio.sleep(0.05)
    assert (num_pngs(), system.encoder.num_calls) == (1, 1)
    system.encoder.hold.set()
    await asyncio.gather(*replying)
    assert system.encoder.num_calls == 2


async def test_a_picture_whose_embeddings_are_gone_is_decoded_again(
    system: System, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await system.start()
    request = system.request("what?", picture("red"), task="UNDERSTAND")
    await system.respond(request)
    monkeypatch.setattr(embedder.EmbeddingCache, "get", lambda self, picture, encoder: None)  # since it was checked
    await system.respond(request)
    assert made == ["check", "normalise"] * 2
    assert system.encoder.num_calls == 2
