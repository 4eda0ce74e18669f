"""Two generations behind one orchestrator: who gets which requests, and what becomes of a bad one."""

import asyncio

import grpc
import pytest

from tests.services.orchestrator.cards import decoder_card, encoder_card, llm_card, picture
from tests.services.orchestrator.fakes import FakeDecoder, FakeEncoder, FakeLlm, until
from tests.services.orchestrator.system import System
from triptych.v1 import component_pb2
from triptych.v1 import orchestrator_pb2 as pb

NEW = decoder_card(digest="sha256:d2d2", version="2.0.0")


def decoders(responses: list[pb.RespondResponse]) -> list[str]:
    return [served.digest for served in responses[-1].done.served_by if served.kind == "decoder"]


async def add(system: System, component: FakeDecoder | FakeEncoder | FakeLlm) -> None:
    """A newcomer, at an address that nobody answered at so far."""
    await component.start()
    await until(lambda: any(c.address == component.address for c in system.backends.candidates(component.card.kind)))


async def late(system: System, card: object = NEW) -> FakeDecoder:
    """A second decoder that comes up once the system runs."""
    decoder = FakeDecoder(card)  # type: ignore[arg-type]
    system.decoders.append(decoder)
    await system.start()
    await decoder.stop()
    await until(lambda: len(system.backends.candidates("decoder")) == 1)
    await asyncio.sleep(0.05)
    system.backends.trials._records.pop(("decoder", "d2d2"), None)  # as if it had never been there
    await add(system, decoder)
    return decoder


async def standings(system: System) -> dict[str, str]:
    listed = await system.stub.ListComponents(pb.ListComponentsRequest())
    name = component_pb2.Standing.Name
    return {r.description.card.digest: name(r.standing).removeprefix("STANDING_") for r in listed.replicas}


async def test_the_newcomer_is_on_trial_with_part_of_the_traffic(system: System) -> None:
    system.settings |= {"trial_share": 0.3, "trial_calls": 1000}
    newcomer = await late(system)
    assert (await standings(system))["sha256:d2d2"] == "TRIAL"
    for _ in range(60):
        await system.respond(system.request("draw", task="GENERATE"))
    assert 0 < newcomer.num_calls <= 30


async def test_a_trial_that_went_well(system: System) -> None:
    system.settings |= {"trial_share": 1.0, "trial_calls": 3}
    newcomer = await late(system)
    while newcomer.num_calls < 3:
        await system.respond(system.request("draw", task="GENERATE"))
    await asyncio.sleep(0.1)
    assert (await standings(system))["sha256:d2d2"] == "CHAINED"


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE])
async def test_a_newcomer_that_fails_costs_nobody_anything(system: System, code: grpc.StatusCode) -> None:
    system.settings |= {"trial_share": 1.0, "trial_calls": 1000}
    newcomer = await late(system)
    newcomer.errors = [(code, "a bug")] * 100
    for _ in range(30):
        assert decoders(await system.respond(system.request("draw", task="GENERATE"))) == ["sha256:dddd"]
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert (await standings(system))["sha256:d2d2"] == "QUARANTINED"
    failed = newcomer.num_calls
    assert failed < 30
    for _ in range(5):
        await system.respond(system.request("draw", task="GENERATE"))
    assert newcomer.num_calls == failed, "nothing goes there any more"


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL])
async def test_requests_that_fail_anywhere_are_no_fault_of_a_newcomer(system: System, code: grpc.StatusCode) -> None:
    system.settings |= {"trial_share": 1.0, "trial_calls": 1000}
    newcomer = await late(system)
    for decoder in system.decoders:
        decoder.errors = [(code, "not with this one")] * 100
    while newcomer.num_calls < 5:
        error = await system.refused(system.request("draw", task="GENERATE"))
        assert error.code() == code
    await asyncio.sleep(0.1)
    assert (await standings(system))["sha256:d2d2"] == "TRIAL"
    listed = await system.stub.ListComponents(pb.ListComponentsRequest())
    assert [r.num_failed for r in listed.replicas if r.address == newcomer.address] == [0]


async def test_a_newcomer_that_refuses_what_the_older_one_does(system: System) -> None:
    system.settings |= {"trial_share": 1.0, "trial_calls": 1000}
    newcomer = await late(system)
    newcomer.errors = [(grpc.StatusCode.INVALID_ARGUMENT, "a bug")] * 100
    while newcomer.num_calls < 2:
        assert decoders(await system.respond(system.request("draw", task="GENERATE"))) == ["sha256:dddd"]
    await asyncio.sleep(0.1)
    assert (await standings(system))["sha256:d2d2"] == "QUARANTINED"


async def test_a_caller_draws_no_lot_by_its_request_id(system: System) -> None:
    system.settings |= {"trial_share": 0.5, "trial_calls": 1000}
    newcomer = await late(system)
    for _ in range(40):
        await system.respond(system.request("draw", task="GENERATE"), metadata=(("x-request-id", "r1"),))
    assert 5 < newcomer.num_calls < 35


async def test_in_quarantine_it_still_serves_when_nobody_else_does(system: System) -> None:
    system.settings |= {"trial_share": 1.0}
    newcomer = await late(system)
    newcomer.errors = [(grpc.StatusCode.INTERNAL, "a bug")] * 2
    while newcomer.num_calls < 2:
        await system.respond(system.request("draw", task="GENERATE"))
    await asyncio.sleep(0.1)
    await system.decoders[0].stop()
    await until(lambda: len(system.backends.candidates("decoder")) == 1)
    assert decoders(await system.respond(system.request("draw", task="GENERATE"))) == ["sha256:d2d2"]


async def test_a_conversation_stays_on_its_chain(system: System) -> None:
    system.decoders.append(FakeDecoder(NEW))
    await system.start()
    for digest in ("sha256:dddd", "sha256:d2d2") * 3:
        responses = await system.respond(system.request("draw", task="GENERATE", chain=["sha256:1111", digest]))
        assert decoders(responses) == [digest]
    assert decoders(await system.respond(system.request("draw", task="GENERATE", chain=["sha256:gone"])))


@pytest.mark.parametrize("chain", [["x"] * 17, [""], ["x" * 300]])
async def test_what_is_no_chain(system: System, chain: list[str]) -> None:
    await system.start()
    error = await system.refused(system.request("hello", chain=chain))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "chain" in str(error.details())


async def test_a_newcomer_that_fits_nobody_gets_no_text_either(system: System) -> None:
    system.llms.append(FakeLlm(llm_card("in@2", digest="sha256:1212")))
    await system.start()
    for _ in range(6):
        await system.respond(system.request("hello", task="UNDERSTAND"))
    assert [llm.num_calls for llm in system.llms] == [6, 0]
    assert (await standings(system))["sha256:1212"] == "UNCHAINED"


async def test_another_decoder_takes_over_until_something_was_shown(system: System) -> None:
    system.decoders = [FakeDecoder(), FakeDecoder(NEW)]
    system.decoders[0].dies_after = 3
    await system.start()
    chain = ["sha256:dddd"]
    params = pb.ImageParams(num_inference_steps=6, seed=1)
    responses = await system.respond(system.request("draw", task="GENERATE", chain=chain, image_params=params))
    assert decoders(responses) == ["sha256:d2d2"]
    steps = [r.image_progress.step for r in responses if r.HasField("image_progress")]
    assert steps == [1, 2, 3, 4, 5, 6], "no step is shown twice"
    await until(lambda: len(system.backends.candidates("decoder")) == 2)
    params.preview_interval = 2
    error = await system.refused(system.request("draw", task="GENERATE", chain=chain, image_params=params))
    assert error.code() == grpc.StatusCode.UNAVAILABLE, "half of another picture was shown"


async def test_every_replica_hears_how_it_stands(system: System) -> None:
    system.encoders.append(FakeEncoder(encoder_card("in@2", digest="sha256:e2e2")))
    heard: dict[str, component_pb2.Verdict] = {}
    for component in system.encoders:
        component.heard = heard
    await system.start()
    await until(lambda: {v.standing for v in heard.values()} >= {component_pb2.STANDING_UNCHAINED, 1})
    assert heard["sha256:e0e0"].standing == component_pb2.STANDING_CHAINED
    assert "in@2" in heard["sha256:e2e2"].reason
    system.llm.hold = asyncio.Event()
    call = asyncio.create_task(system.respond(system.request("what?", picture(), task="UNDERSTAND")))
    await until(lambda: heard["sha256:e0e0"].num_pinned == 1)
    system.llm.hold.set()
    await call
    await until(lambda: heard["sha256:e0e0"].num_pinned == 0)
    await system._close.pop()()  # the backends
    assert all(verdict.is_last for verdict in heard.values())
