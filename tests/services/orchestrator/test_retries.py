"""Calls that are tried again, elsewhere or at the same time, and those that are not."""

import asyncio

import grpc
import grpc.aio

from tests.services.orchestrator.cards import picture
from tests.services.orchestrator.fakes import FakeComponent, FakeDecoder, FakeEncoder, FakeLlm, kinds
from tests.services.orchestrator.system import System

FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue is full")


def is_full(component: FakeComponent, times: int) -> None:
    component.errors = [FULL] * times
    component.retry_after_ms = 50


async def test_full_replica_is_passed_by(system: System) -> None:
    system.llms = [FakeLlm(), FakeLlm()]
    is_full(system.llms[0], 1)
    await system.start()
    assert kinds(await system.respond(system.request("hello", task="UNDERSTAND")))[-1] == "done"
    assert [llm.num_calls for llm in system.llms] == [1, 1]


async def test_all_full_is_refused_before_anything_was_said(system: System) -> None:
    system.llms = [FakeLlm(), FakeLlm()]
    for llm in system.llms:
        is_full(llm, 9)
    await system.start()
    error = await system.refused(system.request("hello", task="UNDERSTAND"))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(error.trailing_metadata())["retry-after-ms"]) == 50
    assert [llm.num_calls for llm in system.llms] == [1, 1]


async def test_finished_stages_are_kept_while_queues_are_full(system: System) -> None:
    system.decoders = [FakeDecoder(), FakeDecoder()]
    for decoder in system.decoders:
        is_full(decoder, 2)
    await system.start()
    responses = await system.respond(system.request("draw", task="GENERATE"))
    assert kinds(responses).count("image") == 1
    assert system.llm.num_calls == 1


async def test_request_too_large_for_the_machine_is_not_tried_elsewhere(system: System) -> None:
    system.llms = [FakeLlm(), FakeLlm()]
    for llm in system.llms:
        llm.errors = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "out of memory")]
    await system.start()
    error = await system.refused(system.request("hello", task="UNDERSTAND"))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert sum(llm.num_calls for llm in system.llms) == 1


async def test_spent_budget_ends_retries(system: System) -> None:
    system.settings |= {"retry_burst": 1, "retry_ratio": 0}
    system.llms = [FakeLlm(), FakeLlm()]
    for llm in system.llms:
        is_full(llm, 9)
    await system.start()
    for _ in range(3):
        error = await system.refused(system.request("hello", task="UNDERSTAND"))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert sum(llm.num_calls for llm in system.llms) == 4


async def test_replica_that_answers_polls_but_fails_calls_is_left_out(system: System) -> None:
    system.llms = [FakeLlm(), FakeLlm()]
    system.llms[0].errors = [(grpc.StatusCode.INTERNAL, "internal error")] * 99
    await system.start()
    codes = []
    for _ in range(12):
        try:
            await system.respond(system.request("hello", task="UNDERSTAND"))
        except grpc.aio.AioRpcError as error:
            codes.append(error.code())
    assert codes == [grpc.StatusCode.INTERNAL] * 3
    assert [c.address for c in system.backends.candidates("llm")] == [system.llms[1].address]


async def test_slow_encoder_is_overtaken_by_an_idle_one(system: System) -> None:
    system.settings["embedding_cache_bytes"] = 0
    system.encoders = [FakeEncoder(), FakeEncoder()]
    await system.start()
    for _ in range(24):
        await system.respond(system.request("what?", picture(), task="UNDERSTAND"))
    slow = system.encoders[0]
    slow.hold = asyncio.Event()
    for _ in range(2):  # one of them to each
        responses = await asyncio.wait_for(system.respond(system.request("what?", picture(), task="UNDERSTAND")), 5)
        assert [s.kind for s in responses[-1].done.served_by] == ["encoder", "llm"]
    await asyncio.wait_for(slow.cancelled.wait(), 5)
