"""Whole requests through a real orchestrator server, in front of small components that speak the real protos."""

import io

import grpc
import numpy as np
import pytest
from PIL import Image

from tests.services.orchestrator.cards import HIDDEN_SIZE, decoder_card, encoder_card, llm_card, message, picture
from tests.services.orchestrator.fakes import FakeDecoder, FakeLlm, text, until
from tests.services.orchestrator.system import System
from triptych.v1 import llm_pb2
from triptych.v1 import orchestrator_pb2 as pb


def kinds(responses: list[pb.RespondResponse]) -> list[str]:
    return [str(r.WhichOneof("event")) for r in responses]


def spelled(prompt: llm_pb2.Prompt) -> list[str]:
    """The prompt's segments, an embeddings one as its shape."""
    return [
        str(tuple(s.embeddings.shape)) if s.HasField("embeddings") else s.special_token or s.text
        for s in prompt.segments
    ]


async def test_understand_streams_text_then_done(system: System) -> None:
    await system.start()
    request = system.request("what is it?", picture("red"), task="UNDERSTAND")
    responses = await system.respond(request, metadata=(("x-request-id", "abc"),))
    assert kinds(responses) == ["text", "text", "done"]
    assert [r.sequence_number for r in responses] == [0, 1, 2]
    assert "".join(r.text.text for r in responses) == "a red circle"
    done = responses[-1].done
    assert done.finish_reason == "stop"
    assert done.usage.num_generated_tokens == 5
    assert [(t.stage, t.queued_ms, t.running_ms) for t in done.stage_times] == [("encoder", 1, 2), ("llm", 3, 4)]
    assert [s.name for s in done.served_by] == ["siglip-tiny", "mistral-tiny"]
    assert all(len(s.replica_id) == 16 for s in done.served_by)
    assert done.request_id == "abc"
    assert done.total_ms > 0
    assert system.encoder.request_ids == ["abc"] == system.llm.request_ids
    assert system.decoder.num_calls == 0


async def test_prompt_follows_the_card(system: System) -> None:
    await system.start()
    request = system.request("what?", picture("red"), task="UNDERSTAND")
    request.sampling.max_tokens = 7
    await system.respond(request)
    prompt = system.llm.prompts[0]
    assert spelled(prompt) == ["<s>", "[I2T]", f"(3, {HIDDEN_SIZE})", "USER:", " what?", " ASSISTANT:"]
    assert prompt.image_policy == llm_pb2.IMAGE_POLICY_FORBID
    assert prompt.embeddings_space == "in@1"
    assert prompt.sampling.max_tokens == 7
    assert np.allclose(system.llm.embeddings[0], 255 / 3)
    assert not system.llm.half_closed, "half-close would tell the LLM that nobody listens"


@pytest.mark.parametrize(
    ("task", "policy"),
    [
        ("AUTO", llm_pb2.IMAGE_POLICY_ALLOW),
        ("UNDERSTAND", llm_pb2.IMAGE_POLICY_FORBID),
        ("GENERATE", llm_pb2.IMAGE_POLICY_FORCE),
        ("EDIT", llm_pb2.IMAGE_POLICY_FORCE),
    ],
)
async def test_task_sets_the_image_policy(system: System, task: str, policy: int) -> None:
    await system.start()
    await system.respond(system.request("do it", picture(), task=task))
    assert system.llm.prompts[0].image_policy == policy


async def test_text_image_text_in_order(system: System) -> None:
    await system.start()
    request = system.request("draw", task="AUTO", image_params=pb.ImageParams(seed=9, num_inference_steps=3))
    request.image_params.preview_interval = 2
    responses = await system.respond(request)
    assert kinds(responses) == [
        *("text", "text", "image_started"),
        *("image_progress", "image_progress", "image_preview", "image_progress", "image"),
        *("text", "done"),
    ]
    assert [r.sequence_number for r in responses] == list(range(10))
    assert [r.image_progress.step for r in responses if r.HasField("image_progress")] == [1, 2, 3]
    image = next(r.image for r in responses if r.HasField("image"))
    assert (image.image_index, image.width, image.height, image.seed) == (0, 8, 8, 9)
    assert Image.open(io.BytesIO(image.image)).getpixel((0, 0)) == (9, 0, 0)
    assert [t.stage for t in responses[-1].done.stage_times] == ["decoder", "llm"]
    assert system.encoder.num_calls == 0


async def test_two_images_in_one_reply(system: System) -> None:
    async def script(llm: FakeLlm):
        for index in range(2):
            async for response in llm.image(index):
                yield response
            yield text("and")

    system.llm.script = script
    await system.start()
    responses = await system.respond(system.request("draw two", task="GENERATE"))
    assert [r.image.image_index for r in responses if r.HasField("image")] == [0, 1]
    assert [t.stage for t in responses[-1].done.stage_times] == ["decoder", "decoder", "llm"]
    seeds = [r.image.seed for r in responses if r.HasField("image")]
    assert seeds == [s.params.seed for s in system.decoder.starts]


async def test_large_hidden_states_reach_the_decoder_unchanged(system: System) -> None:
    system.llm.img_width = 300_000  # 4.8 MB each: five chunks
    await system.start()
    await system.respond(system.request("draw", task="GENERATE"))
    hidden, embeddings = system.decoder.arrays
    expected = np.arange(4 * 300_000, dtype=np.float32).reshape(4, -1)
    assert np.array_equal(hidden, expected)
    assert np.array_equal(embeddings, -expected)


async def test_large_embeddings_reach_the_llm_in_segment_order(system: System) -> None:
    system.encoder.num_tokens = 100_000  # 3.2 MB each
    await system.start()
    await system.respond(system.request(picture("white"), picture("black"), "which?", task="UNDERSTAND"))
    white, black = system.llm.embeddings
    assert white.shape == (100_000, HIDDEN_SIZE)
    assert (white.min(), white.max(), black.min(), black.max()) == (255, 255, 0, 0)


async def test_bf16_port_gets_bf16(system: System) -> None:
    port = system.llm.card.inputs[0]
    card = llm_card(inputs=(type(port)("embeddings", "embeddings", "in@1", "bf16", (-1, HIDDEN_SIZE)),))
    system.llm.card = card
    await system.start()
    await system.respond(system.request("what?", picture(), task="UNDERSTAND"))
    sent = next(s.embeddings for s in system.llm.prompts[0].segments if s.HasField("embeddings"))
    assert len(sent.data) == 3 * HIDDEN_SIZE * 2


async def test_drawn_picture_is_seen_again_in_the_next_turn(system: System) -> None:
    await system.start()
    first = await system.respond(system.request("draw a circle", task="GENERATE", image_params=pb.ImageParams(seed=90)))
    drawn = next(r.image.image for r in first if r.HasField("image"))
    request = pb.RespondRequest(
        messages=[
            message("USER", "draw a circle"),
            message("ASSISTANT", drawn, "done"),
            message("USER", "make it blue"),
        ],
        task=pb.TASK_EDIT,
    )
    await system.respond(request)
    assert len(system.encoder.images) == 1
    assert np.allclose(system.llm.embeddings[0], 30)
    img = ["[SOI]", "[IMG0]", "[IMG1]", "[IMG2]", "[IMG3]", "[EOI]"]
    assert spelled(system.llm.prompts[1]) == [
        *("<s>", "[T2I]", "USER:", " draw a circle", " ASSISTANT:"),
        *img,
        *(" done", "</s>", "USER:", f"(3, {HIDDEN_SIZE})", " make it blue", " ASSISTANT:"),
    ]


async def test_second_turn_finds_the_embeddings_in_the_cache(system: System) -> None:
    await system.start()
    request = system.request("what?", picture("red"), picture("red"), picture("blue"), task="UNDERSTAND")
    await system.respond(request)
    assert (system.encoder.num_calls, len(system.encoder.images)) == (1, 2), "the same picture twice is encoded once"
    again = await system.respond(request)
    assert system.encoder.num_calls == 1
    assert len(system.llm.embeddings) == 6
    assert np.array_equal(system.llm.embeddings[0], system.llm.embeddings[3])
    assert [t.stage for t in again[-1].done.stage_times] == ["llm"]
    assert again[-1].done.served_by[0].replica_id == ""
    assert system.counted("embedding_cache_hits_total") == 2
    assert system.counted("embedding_cache_misses_total") == 2
    assert system.counted("embedding_cache_bytes") == 2 * 3 * HIDDEN_SIZE * 4


async def test_upgraded_encoder_finds_nothing_of_the_old_one(system: System) -> None:
    await system.start()
    request = system.request("what?", picture("red"), task="UNDERSTAND")
    await system.respond(request)
    await system.encoder.stop()
    system.encoder.card = encoder_card(digest="sha256:e1e1", version="2.0.0")
    await system.encoder.start()
    await until(lambda: [c.card.version for c in system.backends.candidates("encoder")] == ["2.0.0"])
    await system.respond(request)
    assert system.encoder.num_calls == 2


async def test_cache_off(system: System) -> None:
    system.settings["embedding_cache_bytes"] = 0
    await system.start()
    for _ in range(2):
        await system.respond(system.request("what?", picture(), task="UNDERSTAND"))
    assert system.encoder.num_calls == 2


async def test_seed_is_drawn_once_and_returned(system: System) -> None:
    await system.start()
    responses = await system.respond(system.request("draw", task="GENERATE"))
    image = next(r.image for r in responses if r.HasField("image"))
    assert image.seed == system.decoder.starts[0].params.seed
    assert not system.decoder.starts[0].params.HasField("num_inference_steps"), "absent means the card's default"


async def test_auto_without_a_decoder_may_not_draw(system: System) -> None:
    system.decoders = []
    await system.start()
    assert kinds(await system.respond(system.request("hello"))) == ["text", "text", "done"]
    assert system.llm.prompts[0].image_policy == llm_pb2.IMAGE_POLICY_FORBID


async def test_handover_loop_is_not_served_yet(system: System) -> None:
    system.llms = [FakeLlm(llm_card(handover="loop"))]
    system.decoders = [FakeDecoder(decoder_card(handover="loop"))]
    await system.start()
    error = await system.refused(system.request("draw", task="GENERATE"))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "diffusion-tiny" in str(error.details())
    await system.respond(system.request("hello", task="AUTO"))
    assert system.llm.prompts[0].image_policy == llm_pb2.IMAGE_POLICY_FORBID
