"""When messages are read, at a real server: "said nothing" is a caller who never sends any."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.orchestrator import door, intake
from tests.services.orchestrator.fakes import until
from tests.services.orchestrator.system import System
from triptych.keys import write_keys
from triptych.v1 import orchestrator_pb2 as pb

RESPOND = "/triptych.v1.OrchestratorService/Respond"
METHODS = [RESPOND, "/triptych.v1.OrchestratorService/ListComponents", "/grpc.health.v1.Health/Watch"]


async def nothing() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def silent(system: System, method: str = RESPOND) -> str:
    """What is answered to a call whose message does not come; who stops waiting for that ends the call."""
    call: Any = system.channel.stream_stream(method)(nothing(), timeout=30)
    try:
        return str((await call.code()).name)
    finally:
        call.cancel()


def num_read(system: System) -> float:
    return system.counted("transport_bytes_total", method=RESPOND, direction="in")


@pytest.mark.parametrize("method", METHODS)
async def test_a_stranger_is_refused_unread(system: System, tmp_path: Path, method: str) -> None:
    write_keys(tmp_path / "keys.json", {})
    system.settings["keys_file"] = tmp_path / "keys.json"
    await system.start()
    assert await silent(system, method) == "UNAUTHENTICATED"
    error = await system.refused(system.request(bytes(2**20)))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert dict(error.trailing_metadata())["x-request-id"]
    assert num_read(system) == 0
    refused = {"method": RESPOND, "code": "UNAUTHENTICATED"}
    await until(lambda: system.counted("calls_total", **refused) == 1 + (method == RESPOND))


async def test_only_so_many_messages_are_here_at_a_time(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "SPARE", 0)
    system.settings |= {"max_num_requests": 1, "max_queue_size": 1}
    await system.start()
    reading = [asyncio.create_task(silent(system)) for _ in range(2)]
    await until(lambda: system.counted("calls_running") == 2)
    error = await system.refused(system.request("hello"))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "at most 2" in str(error.details())
    assert int(dict(error.trailing_metadata())["retry-after-ms"]) > 0
    assert num_read(system) == 0
    assert await system.stub.ListComponents(pb.ListComponentsRequest())  # not bounded
    for task in reading:
        task.cancel()
    await until(lambda: system.counted("calls_running") == 0)
    assert await system.respond(system.request("hello"))


async def test_health_is_watched_as_before(system: System) -> None:
    await system.start()
    watch = health_pb2_grpc.HealthStub(system.channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


async def test_a_message_that_does_not_come_is_given_up(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "READ_TIMEOUT_S", 0.1)
    await system.start()
    call: Any = system.channel.stream_stream(RESPOND)(nothing())
    assert (await call.code()).name == "DEADLINE_EXCEEDED"
    assert "did not arrive" in await call.details()


@pytest.mark.parametrize("sent", [[], [b"\xff"]], ids=["none", "garbage"])
async def test_what_is_no_message_is_the_callers_mistake(system: System, sent: list[bytes]) -> None:
    await system.start()
    call: Any = system.channel.stream_stream(RESPOND)(iter(sent), timeout=5)
    assert (await call.code()).name == "INVALID_ARGUMENT"
