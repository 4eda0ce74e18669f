"""What happens when a caller goes away, a replica dies, or a component breaks its word."""

import asyncio

import grpc
import pytest

from tests.services.orchestrator.cards import encoder_card, llm_card, picture
from tests.services.orchestrator.fakes import FakeDecoder, FakeEncoder, FakeLlm, drain, kinds, text, until
from tests.services.orchestrator.system import System
from triptych.v1 import encoder_pb2, tensor_pb2
from triptych.v1 import orchestrator_pb2 as pb


async def test_image_the_llm_was_forbidden_is_our_bug(system: System) -> None:
    async def script(llm: FakeLlm):
        async for response in llm.image(0):
            yield response

    system.llm.script = script
    await system.start()
    error = await system.refused(system.request("what?", task="UNDERSTAND"))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert "mistral-tiny" in str(error.details())


@pytest.mark.parametrize("stage", ["encoder", "llm", "decoder"])
async def test_cancellation_reaches_every_component(system: System, stage: str) -> None:
    async def script(llm: FakeLlm):
        async for response in llm.image(0):
            yield response
        await asyncio.Event().wait()

    component = {"encoder": system.encoder, "llm": system.llm, "decoder": system.decoder}[stage]
    component.hold = asyncio.Event()
    system.llm.script = script
    await system.start()
    call = system.stub.Respond(system.request("edit", picture(), task="EDIT"))
    reading = asyncio.create_task(drain(call))
    await asyncio.wait_for(component.reached.wait(), 5)
    assert system.llm.num_running == (stage != "encoder")
    call.cancel()
    await asyncio.wait_for(component.cancelled.wait(), 5)
    await until(lambda: all(c.num_running == 0 for c in system.components))
    await asyncio.gather(reading, return_exceptions=True)
    await until(lambda: system.counted("requests_total", task="edit", status="CANCELLED") == 1)
    assert system.counted("requests_running") == 0


async def test_deadline_reaches_the_components(system: System) -> None:
    system.llm.hold = asyncio.Event()
    await system.start()
    error = await system.refused(system.request("hello"), timeout=0.3)
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: system.llm.num_running == 0)


async def test_stage_timeout_names_the_stage(system: System) -> None:
    system.settings["llm_timeout_s"] = 0.2
    system.llm.hold = asyncio.Event()
    await system.start()
    error = await system.refused(system.request("hello"))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert dict(error.trailing_metadata())["stage"] == "llm"
    assert system.llm.address in str(error.details())


async def test_refusal_of_a_component_reaches_the_user(system: System) -> None:
    system.llm.errors = [(grpc.StatusCode.INVALID_ARGUMENT, "prompt has 900 tokens, at most 512")]
    await system.start()
    error = await system.refused(system.request("hello"))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "900 tokens, at most 512" in str(error.details())
    assert dict(error.trailing_metadata())["stage"] == "llm"


async def test_lost_decoder_is_replaced_and_steps_are_not_repeated(system: System) -> None:
    system.decoders = [FakeDecoder(), FakeDecoder()]
    for decoder in system.decoders:
        decoder.dies_after = 2
    system.decoders[1].dies_after = 0
    await system.start()
    request = system.request("draw", task="GENERATE", image_params=pb.ImageParams(num_inference_steps=4))
    responses = await system.respond(request)
    assert [r.image_progress.step for r in responses if r.HasField("image_progress")] == [1, 2, 3, 4]
    assert kinds(responses).count("image") == 1
    first, second = (d.starts[0].params.seed for d in system.decoders)
    assert first == second
    assert [r.sequence_number for r in responses] == list(range(len(responses)))


async def test_lost_encoder_is_replaced(system: System) -> None:
    system.encoders = [FakeEncoder(), FakeEncoder()]
    for encoder in system.encoders:
        encoder.errors = [(grpc.StatusCode.UNAVAILABLE, "Socket closed")]
    system.encoders[1].errors = []
    await system.start()
    responses = await system.respond(system.request("what?", picture(), task="UNDERSTAND"))
    assert [e.num_calls for e in system.encoders] == [1, 1]
    assert [s.kind for s in responses[-1].done.served_by] == ["encoder", "llm"], "who failed did not serve"


async def test_llm_is_replaced_before_its_first_token(system: System) -> None:
    system.llms = [FakeLlm(), FakeLlm()]
    system.llms[0].errors = [(grpc.StatusCode.UNAVAILABLE, "Socket closed")]
    await system.start()
    assert kinds(await system.respond(system.request("hello", task="UNDERSTAND")))[-1] == "done"
    assert [llm.num_calls for llm in system.llms] == [1, 1]


def says(*texts: str, draws: bool = False, dies: bool = False):
    """A script."""

    async def script(llm: FakeLlm):
        for value in texts:
            yield text(value)
        if draws:
            async for response in llm.image(0):
                yield response
            yield text("there")
        if dies:
            await llm.die()

    return script


async def test_reply_goes_on_where_the_lost_replica_stopped(system: System) -> None:
    system.llms = [FakeLlm(), FakeLlm()]
    system.llms[0].script = says("see", ": ", draws=True, dies=True)
    system.llms[1].script = says("see: ", draws=True)
    await system.start()
    responses = await system.respond(system.request("hello"))
    assert "".join(r.text.text for r in responses) == "see: there"
    assert [kind for kind in kinds(responses) if kind.startswith("image")].count("image_started") == 1
    assert kinds(responses).count("image") == 1
    assert system.decoder.num_calls == 1
    assert [r.sequence_number for r in responses] == list(range(len(responses)))
    first, second = (llm.prompts[0].sampling for llm in system.llms)
    assert first.HasField("seed") and first.seed == second.seed
    assert [s.kind for s in responses[-1].done.served_by].count("llm") == 1, "who failed did not serve"


async def test_broken_connection_to_the_only_replica_is_mended(system: System) -> None:
    """It is asked again, for it answers when it is looked at."""
    system.llm.script = says("a red", " circle")
    system.llm.errors = [(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")]
    await system.start()
    responses = await system.respond(system.request("hello", task="UNDERSTAND"))
    assert "".join(r.text.text for r in responses) == "a red circle"
    assert system.llm.num_calls == 2


async def test_reply_that_comes_out_differently_is_not_gone_on_with(system: System) -> None:
    system.llms = [FakeLlm(), FakeLlm()]
    system.llms[0].script = says("a red", dies=True)
    system.llms[1].script = says("a blue circle")
    await system.start()
    error = await system.refused(system.request("hello", task="UNDERSTAND"))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert "same backend, device and dtype" in str(error.details())


@pytest.mark.parametrize("stage", ["encoder", "llm", "decoder"])
async def test_silent_replica_is_given_up_and_comes_back(system: System, stage: str) -> None:
    """Its connections stay open, as those of a stopped process do."""
    system.settings["silence_ms"] = 300
    replicas = {"encoder": [FakeEncoder(), FakeEncoder()], "llm": [FakeLlm(), FakeLlm()]}
    replicas["decoder"] = [FakeDecoder(), FakeDecoder()]
    system.encoders, system.llms, system.decoders = replicas.values()
    await system.start()
    hung = replicas[stage][0]
    hung.hold = asyncio.Event()
    call = asyncio.create_task(system.respond(system.request("edit", picture(), task="EDIT")))
    await asyncio.wait_for(hung.reached.wait(), 5)
    hung.awake.clear()
    began = asyncio.get_running_loop().time()
    responses = await asyncio.wait_for(call, 5)
    assert 0.2 < asyncio.get_running_loop().time() - began < 4
    assert kinds(responses).count("image") == 1
    assert "silent for 0.3 s" in system.backends.replicas(stage)[0].detail
    await asyncio.wait_for(hung.cancelled.wait(), 5)
    hung.awake.set()
    await until(lambda: len(system.backends.candidates(stage)) == 2)


async def test_silent_replica_without_another_is_waited_for(system: System) -> None:
    """A pause is better than an error, where nobody could take over."""
    system.settings |= {"silence_ms": 100, "silence_alone_ms": 1500}
    system.llm.hold = asyncio.Event()
    await system.start()
    request = system.request("hello", task="UNDERSTAND")
    call = asyncio.create_task(system.respond(request))
    await asyncio.wait_for(system.llm.reached.wait(), 5)
    system.llm.awake.clear()
    await asyncio.sleep(0.5)
    assert len(system.backends.candidates("llm")) == 1
    system.llm.hold.set()
    system.llm.awake.set()
    assert kinds(await asyncio.wait_for(call, 5))[-1] == "done"
    assert system.llm.num_calls == 1
    system.llm.awake.clear()
    error = await asyncio.wait_for(system.refused(request), 5)
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "silent for 1.5 s" in str(error.details())
    error = await asyncio.wait_for(system.refused(request), 0.5)
    assert "no llm replica is serving" in str(error.details())
    system.llm.awake.set()


async def test_busy_replica_is_not_silent(system: System) -> None:
    """What it streams is sign of life enough, should it be too busy for polls."""
    system.settings |= {"silence_ms": 500, "silence_alone_ms": 500}

    async def script(llm: FakeLlm):
        llm.ignores_polls = True
        for index in range(12):
            yield text(f"{index} ")
            await asyncio.sleep(0.1)

    system.llm.script = script
    await system.start()
    responses = await system.respond(system.request("hello", task="UNDERSTAND"))
    assert len([r for r in responses if r.HasField("text")]) == 12
    await until(lambda: "silent" in system.backends.replicas("llm")[0].detail)


async def test_death_mid_stream_names_stage_and_replica(system: System) -> None:
    async def script(llm: FakeLlm):
        yield text("a red")
        await llm.die()

    system.llm.script = script
    await system.start()
    seen = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for response in system.stub.Respond(system.request("hello", task="UNDERSTAND")):
            seen.append(response.text.text)
    assert seen == ["a red"]
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    metadata = dict(caught.value.trailing_metadata())
    assert (metadata["stage"], metadata["replica"]) == ("llm", system.llm.address)
    assert system.counted("requests_total", task="understand", status="UNAVAILABLE") == 1


async def test_hidden_states_of_another_space_are_never_drawn(system: System) -> None:
    await system.start()
    system.llm.card = llm_card(img_space="img@9")  # replaced behind our back, after the last poll
    error = await system.refused(system.request("draw", task="GENERATE"))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert "'img@9'" in str(error.details())
    assert system.decoder.num_calls == 0


async def test_malformed_embeddings_are_the_encoders_fault(system: System) -> None:
    async def encode(request, context):
        embeddings = tensor_pb2.Tensor(dtype=tensor_pb2.D_TYPE_F32, shape=[2, 8], data=b"short")
        yield encoder_pb2.EncodeResponse(embedding=encoder_pb2.ImageEmbedding(embeddings=embeddings))

    system.encoder.Encode = encode
    await system.start()
    error = await system.refused(system.request("what?", picture(), task="UNDERSTAND"))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert dict(error.trailing_metadata())["stage"] == "encoder"


async def test_stream_without_finish_is_a_broken_llm(system: System) -> None:
    async def generate(requests, context):
        yield text("a")

    system.llm.Generate = generate
    await system.start()
    error = await system.refused(system.request("hello"))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert "without a Finish" in str(error.details())


async def test_embeddings_of_another_space_are_never_used(system: System) -> None:
    await system.start()
    system.encoder.card = encoder_card(space="other@1")  # replaced behind our back, after the last poll
    error = await system.refused(system.request("what?", picture(), task="UNDERSTAND"))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert "'other@1'" in str(error.details())
    assert "'in@1'" in str(error.details())
    assert system.llm.num_calls == 0
