"""What a replica says of itself when it is polled, and when that is nothing that can be read."""

import asyncio
from collections.abc import Awaitable

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.orchestrator.backends import Backends
from services.orchestrator.discovery.names import Names
from tests.services.orchestrator.fakes import until
from tests.services.orchestrator.system import System
from triptych.v1 import component_pb2
from triptych.v1 import orchestrator_pb2 as pb


@pytest.mark.parametrize("service", ["Describe", "Check"])
async def test_an_answer_that_does_not_parse(
    system: System, service: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """gRPC hands over None in its place."""
    await system.start()
    (replica,) = system.backends.replicas("llm")
    answer = replica.hearing.answer
    kind = {"Describe": component_pb2.DescribeResponse, "Check": health_pb2.HealthCheckResponse}[service]

    async def garbled(call: Awaitable[object]) -> object:
        answered = await answer(call)
        return None if isinstance(answered, kind) else answered

    with monkeypatch.context() as patch:
        patch.setattr(replica.hearing, "answer", garbled)
        await until(lambda: replica.detail == "malformed answer")
        assert replica.health == pb.HEALTH_UNREACHABLE
        await asyncio.sleep(0.1)
    assert [r.message for r in caplog.records] == ["malformed answer"], "said once"
    await until(lambda: replica.is_serving)


async def test_garbage_on_the_wire_is_no_answer() -> None:
    async def describe(request: object, context: object) -> bytes:
        return b"\x1a\x02\xff\xfe"  # no UTF-8 where a string belongs

    handlers = {"Describe": grpc.unary_unary_rpc_method_handler(describe)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("triptych.v1.ComponentService", handlers),))
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    backends = Backends(Names({"llm": [f"127.0.0.1:{port}"]}), 10, 2**20)
    await backends.start()
    (replica,) = backends.replicas("llm")
    assert (replica.health, replica.detail) == (pb.HEALTH_UNREACHABLE, "malformed answer")
    await backends.stop()
    await server.stop(0)
