import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.orchestrator.config import OrchestratorConfig
from tests.services.orchestrator.cards import decoder_card, encoder_card, picture
from tests.services.orchestrator.fakes import FakeDecoder, FakeEncoder, FakeLlm, drain, text, until
from tests.services.orchestrator.system import System
from triptych.v1 import llm_pb2
from triptych.v1 import orchestrator_pb2 as pb

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (pb.RespondRequest(), ["messages", "0 entries"]),
        (System().request("x", image_params=pb.ImageParams(seed=-1)), ["image_params.seed", "-1"]),
        (System().request("x", b"no picture"), ["messages[0].contents[1].image", "not a picture"]),
        (System().request("x", picture(size=(90, 80))[:60]), ["messages[0].contents[1].image", "truncated"]),
        (System().request("x", picture(size=(90, 90))), ["90x90", "at most 8000 pixels"]),
        (
            System().request("x", image_params=pb.ImageParams(num_inference_steps=101)),
            ["num_inference_steps is 101, must be 1 to 100", "diffusion-tiny"],
        ),
        (
            System().request("x", sampling=llm_pb2.SamplingParams(max_tokens=513)),
            ["max_tokens is 513, must be 1 to 512", "mistral-tiny"],
        ),
    ],
)
async def test_bad_input(system: System, request_: pb.RespondRequest, named: list[str]) -> None:
    system.settings["max_pixels"] = 8000
    await system.start()
    error = await system.refused(request_)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    for part in named:
        assert part in str(error.details())
    assert all(component.num_calls == 0 for component in system.components)


async def test_bad_picture_is_refused_also_while_the_encoder_is_away(system: System) -> None:
    await system.start(started=False)
    error = await system.refused(system.request("x", b"no picture"))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_encoder_sees_upright_rgb_png_only(system: System) -> None:
    await system.start()
    for data in (
        picture(format="JPEG"),
        picture((0, 0, 0, 255), mode="CMYK", format="JPEG"),
        picture("red", mode="RGBA"),
    ):
        await system.respond(system.request("what?", data, task="UNDERSTAND"))
    assert all(image.startswith(b"\x89PNG") for image in system.encoder.images)
    assert len(system.encoder.images) == 3


@pytest.mark.parametrize(
    ("encoders", "decoders", "task", "named"),
    [
        ([FakeEncoder, encoder_card(space="other@7")], None, "UNDERSTAND", ["siglip-tiny", "other@7", "in@1"]),
        (None, [FakeDecoder, decoder_card(space="img@9")], "GENERATE", ["diffusion-tiny", "img@9", "img@1"]),
    ],
)
async def test_wrong_space_names_both_cards(system: System, encoders, decoders, task: str, named: list[str]) -> None:
    system.encoders = [encoders[0](encoders[1])] if encoders else system.encoders
    system.decoders = [decoders[0](decoders[1])] if decoders else system.decoders
    await system.start()
    error = await system.refused(system.request("x", picture(), task=task))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    for part in ("mistral-tiny 1.0.0 (1111)", *named):
        assert part in str(error.details())


async def occupied(system: System, request: pb.RespondRequest) -> asyncio.Task[Any]:
    """Started, with one request that runs until the LLM's `hold` is set, and a place for one to wait."""
    system.settings |= {"max_num_requests": 1, "max_queue_size": 1}
    system.llm.hold = asyncio.Event()
    await system.start()
    running = asyncio.create_task(system.respond(request))
    await until(lambda: system.llm.num_running == 1)
    return running


async def test_full_queue_is_refused_at_once(system: System) -> None:
    request = system.request("hello", task="UNDERSTAND")
    running = await occupied(system, request)
    waiting = asyncio.create_task(system.respond(request))
    await until(lambda: system.counted("requests_waiting") == 1)
    error = await system.refused(request)
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "at most 1 and 1" in str(error.details())
    assert int(dict(error.trailing_metadata())["retry-after-ms"]) > 0
    system.llm.hold.set()
    await asyncio.gather(running, waiting)
    assert system.counted("requests_total", task="understand", status="OK") == 2
    assert system.counted("requests_total", task="understand", status="RESOURCE_EXHAUSTED") == 1


async def test_messages_that_are_too_many_bytes_are_refused_at_once(system: System) -> None:
    request = system.request("hello" * 1000, task="UNDERSTAND")
    system.settings["max_admitted_bytes"] = 8000
    system.llm.hold = asyncio.Event()
    await system.start()
    running = asyncio.create_task(system.respond(request))
    await until(lambda: system.llm.num_running == 1)
    assert system.counted("requests_bytes") == request.ByteSize()
    error = await system.refused(request)
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "more than 8000" in str(error.details())
    assert int(dict(error.trailing_metadata())["retry-after-ms"]) > 0
    small = asyncio.create_task(system.respond(system.request("hello", task="UNDERSTAND")))
    await until(lambda: system.llm.num_running == 2)
    system.llm.hold.set()
    await asyncio.gather(running, small)
    assert system.counted("requests_bytes") == 0


async def test_a_caller_who_stops_reading_gives_its_place_back(system: System) -> None:
    async def flood(llm: FakeLlm) -> AsyncIterator[llm_pb2.GenerateResponse]:
        for _ in range(1000):
            yield text("x" * 100_000)

    system.settings |= {"max_num_requests": 1, "write_timeout_s": 0.5}
    system.llm.script = flood
    await system.start()
    call = system.stub.Respond(system.request("tell me", task="UNDERSTAND"))
    await anext(aiter(call))
    system.llm.script = FakeLlm.by_policy
    responses = await system.respond(system.request("hello", task="UNDERSTAND"), timeout=5)
    assert responses[-1].HasField("done")
    assert system.counted("requests_total", task="understand", status="CANCELLED") == 1
    await until(lambda: system.llm.num_running == 0)


async def test_waiting_request_whose_deadline_passes_leaves_at_once(system: System) -> None:
    request = system.request("hello", task="UNDERSTAND")
    running = await occupied(system, request)
    error = await system.refused(request, timeout=0.2)
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: system.counted("requests_waiting") == 0)
    waiting = asyncio.create_task(system.respond(request))  # its place is free
    await until(lambda: system.counted("requests_waiting") == 1)
    system.llm.hold.set()
    await asyncio.gather(running, waiting)
    assert system.llm.num_calls == 2


async def test_waiting_request_that_is_abandoned_gives_its_place_back(system: System) -> None:
    request = system.request("hello", task="UNDERSTAND")
    running = await occupied(system, request)
    call = system.stub.Respond(request)
    reading = asyncio.create_task(drain(call))
    await until(lambda: system.counted("requests_waiting") == 1)
    call.cancel()
    await until(lambda: system.counted("requests_waiting") == 0)
    await asyncio.gather(reading, return_exceptions=True)
    system.llm.hold.set()
    await running
    assert system.llm.num_calls == 1


async def test_many_at_once_stay_apart(system: System) -> None:
    await system.start()
    requests = [system.request(f"draw {n}", task="GENERATE", image_params=pb.ImageParams(seed=n)) for n in range(20)]
    replies = await asyncio.gather(*(system.respond(request) for request in requests))
    for seed, responses in enumerate(replies):
        assert [r.image.seed for r in responses if r.HasField("image")] == [seed]
        assert [r.sequence_number for r in responses] == list(range(len(responses)))
    assert len({r[-1].done.request_id for r in replies}) == 20


async def test_stage_metrics(system: System) -> None:
    await system.start()
    await system.respond(system.request("edit", picture(), task="EDIT"))
    for stage, queued_ms, running_ms in (("encoder", 1, 2), ("llm", 3, 4), ("decoder", 5, 6)):
        assert system.counted("stage_queued_ms_sum", stage=stage) == queued_ms
        assert system.counted("stage_running_ms_sum", stage=stage) == running_ms
    assert system.counted("queued_ms_count") == 1


async def test_list_components(system: System) -> None:
    system.encoders.append(FakeEncoder(encoder_card(space="other@7", digest="sha256:e7e7")))
    await system.start()
    await system.decoder.stop()
    await until(lambda: not system.backends.candidates("decoder"))
    listed = await system.stub.ListComponents(pb.ListComponentsRequest())
    assert [(r.kind, r.address) for r in listed.replicas] == [(c.card.kind, c.address) for c in system.components]
    serving, gone = pb.HEALTH_SERVING, pb.HEALTH_UNREACHABLE
    assert [r.health for r in listed.replicas] == [serving, serving, serving, gone]
    assert listed.replicas[2].description.card.name == "mistral-tiny"
    assert listed.replicas[2].description.load.max_waiting == 8
    assert not listed.replicas[3].HasField("description")
    assert listed.replicas[3].detail
    assert [(c.encoder_digest, c.compatible) for c in listed.chains] == [("sha256:e0e0", True), ("sha256:e7e7", False)]
    assert "other@7" in listed.chains[1].reason


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_LLM_ADDRESSES", "a:1, b:2")
    config = OrchestratorConfig.from_args(["--encoder-addresses", "c:3,d:4", "--max-num-requests", "7"])
    assert config.addresses == {"encoder": ("c:3", "d:4"), "llm": ("a:1", "b:2"), "decoder": ()}
    assert config.max_num_requests == 7


@pytest.mark.parametrize("args", [["--llm-addresses", "nowhere"], ["--llm-addresses", "a:99999"], ["--colour", "red"]])
def test_bad_settings(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        OrchestratorConfig.from_args(args)
    assert caught.value.code == 2
    assert args[-1] in capsys.readouterr().err


def test_process_needs_no_torch() -> None:
    code = (
        "import sys, services.orchestrator.__main__; print({'torch', 'transformers', 'diffusers'} & set(sys.modules))"
    )
    found = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env={**os.environ}, text=True)
    assert found.strip() == "set()"
