"""What a caller's requests are spent on, at a real server: not on outages, and not on a full queue."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.services.orchestrator.fakes import FakeLlm, text, until
from tests.services.orchestrator.system import System
from triptych.keys import new_key, write_keys
from triptych.v1 import llm_pb2


def options(system: System, folder: Path, **limits: int) -> dict[str, Any]:
    """The system asks for keys; this is one."""
    key, stored = new_key("alice", **limits)
    system.settings["keys_file"] = folder / "keys.json"
    write_keys(folder / "keys.json", {stored.id: stored})
    return {"metadata": (("authorization", f"Bearer {key}"),)}


async def refusal(system: System, known: dict[str, Any]) -> str:
    return str((await system.refused(system.request("hello", task="UNDERSTAND"), **known)).code().name)


async def test_an_outage_is_no_request(system: System, tmp_path: Path) -> None:
    known = options(system, tmp_path, per_minute=1, per_day=1)
    await system.start(started=False)
    assert [await refusal(system, known) for _ in range(3)] == ["UNAVAILABLE"] * 3


async def test_a_full_queue_is_no_request(system: System, tmp_path: Path) -> None:
    system.settings |= {"max_num_requests": 1, "max_queue_size": 1}
    known = options(system, tmp_path, per_day=3)
    hold = system.llm.hold = asyncio.Event()
    await system.start()
    request = system.request("hello", task="UNDERSTAND")
    admitted = [asyncio.create_task(system.respond(request, **known)) for _ in range(2)]
    await until(lambda: system.counted("requests_waiting") == 1)
    for _ in range(3):
        error = await system.refused(request, **known)
        assert "1 requests are running" in str(error.details())
    hold.set()
    await asyncio.gather(*admitted)
    assert await system.respond(request, **known)
    assert "3 requests a day" in str((await system.refused(request, **known)).details())


async def test_a_full_component_is_a_request(system: System, tmp_path: Path) -> None:
    system.settings["retry_burst"] = 0
    system.llm.errors = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue is full")] * 20
    known = options(system, tmp_path, per_day=1)
    await system.start()
    assert await refusal(system, known) == "RESOURCE_EXHAUSTED"
    assert "1 requests a day" in str((await system.refused(system.request("hello"), **known)).details())


async def lost(llm: FakeLlm) -> AsyncIterator[llm_pb2.GenerateResponse]:
    yield text("a red ")
    await llm.die()


@pytest.mark.parametrize("gone", [True, False], ids=["lost", "whole"])
async def test_an_answer_that_began_is_a_request(system: System, tmp_path: Path, gone: bool) -> None:
    if gone:
        system.llm.script = lost
    known = options(system, tmp_path, per_day=1)
    await system.start()
    request = system.request("hello", task="UNDERSTAND")
    if gone:
        assert await refusal(system, known) == "UNAVAILABLE"
    else:
        assert await system.respond(request, **known)
    assert "1 requests a day" in str((await system.refused(request, **known)).details())
