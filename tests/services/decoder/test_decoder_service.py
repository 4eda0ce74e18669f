"""The decoder service over real gRPC: its pictures are DecoderStage's, pixel by pixel, and no input breaks it."""

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.services.components import Exchange, decoder, eventually, refused
from triptych.card import read_card
from triptych.models.decoder_stage import DecoderStage
from triptych.tensors import to_messages
from triptych.v1 import decoder_pb2 as pb
from triptych.v1 import llm_pb2, tensor_pb2

RNG = np.random.default_rng(0)
HIDDEN, EMBEDDINGS = (RNG.standard_normal((4, 32), np.float32) for _ in range(2))
NAN = np.full((4, 32), np.nan, np.float32)


def start(
    checkpoint: Path, hidden: Any = HIDDEN, embeddings: Any = EMBEDDINGS, space: str | None = None, **params: Any
) -> list[Any]:
    conditioning = llm_pb2.HiddenStates(
        hidden_states=to_messages(hidden)[0],
        embeddings=to_messages(embeddings)[0],
        space=read_card(checkpoint / "decoder").input("hidden_states").space if space is None else space,
    )
    return [pb.DecodeRequest(start=pb.Start(params=pb.DecodeParams(**params), conditioning=conditioning))]


async def draw(stub: Any, requests: list[Any]) -> tuple[pb.DecodedImage, list[Any]]:
    responses = await Exchange(stub.Decode, requests).all()
    assert responses[-1].WhichOneof("event") == "image"
    return responses[-1].image, responses[:-1]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@torch.inference_mode()
def drawn_in_process(checkpoint: Path, seed: int, steps: int, scale: float) -> np.ndarray:
    stage = DecoderStage.load(checkpoint / "decoder")
    conditioning = stage.condition(torch.from_numpy(HIDDEN)[None], torch.from_numpy(EMBEDDINGS)[None])
    denoising = stage.start(conditioning, seed, steps, scale)
    while not denoising.is_finished:
        stage.step([denoising])
    return stage.picture(denoising)


@pytest.mark.parametrize("scale", [1.0, 3.0])
async def test_same_picture_as_in_process_whatever_else_runs(tiny_checkpoint: Path, scale: float) -> None:
    expected = drawn_in_process(tiny_checkpoint, 5, 6, scale)
    wanted = start(tiny_checkpoint, seed=5, num_inference_steps=6, guidance_scale=scale)
    others = [start(tiny_checkpoint, seed=seed, num_inference_steps=9 - seed) for seed in range(4)]
    async with decoder(tiny_checkpoint) as (stub, engine, _):
        results = await asyncio.gather(*(draw(stub, each) for each in (*others[:2], wanted, *others[2:])))
        assert engine.num_denoisings == 0
    image = results[2][0]
    assert np.array_equal(pixels(image.image), expected)
    assert (image.width, image.height, image.seed) == (16, 16, 5)
    assert not np.array_equal(pixels(results[0][0].image), expected)


async def test_progress_and_previews(tiny_checkpoint: Path) -> None:
    requests = start(tiny_checkpoint, seed=1, num_inference_steps=5, preview_interval=2)
    async with decoder(tiny_checkpoint) as (stub, _, _):
        image, events = await draw(stub, requests)
    told = [(e.WhichOneof("event"), getattr(e, e.WhichOneof("event")).step) for e in events]
    assert told == [
        ("progress", 1),
        ("progress", 2),
        ("preview", 2),
        ("progress", 3),
        ("progress", 4),
        ("preview", 4),
        ("progress", 5),
    ]
    assert {e.progress.num_steps for e in events if e.HasField("progress")} == {5}
    assert pixels(events[2].preview.image).shape == (16, 16, 3)
    assert image.running_ms > 0


async def test_defaults_come_from_the_card(tiny_checkpoint: Path) -> None:
    async with decoder(tiny_checkpoint) as (stub, _, _):
        image, events = await draw(stub, start(tiny_checkpoint))
        again, _ = await draw(stub, start(tiny_checkpoint, seed=image.seed, num_inference_steps=4, guidance_scale=2.0))
        other, _ = await draw(stub, start(tiny_checkpoint))
    assert len(events) == 4
    assert again.image == image.image
    assert other.seed != image.seed


Bad = tuple[Callable[[Path], list[Any]], str, str]


def edited(folder: Path) -> list[Any]:
    made = start(folder)
    made[0].start.source_image = b"png"
    return made


def bare(folder: Path) -> list[Any]:
    return [pb.DecodeRequest(start=pb.Start())]


def without_embeddings(folder: Path) -> list[Any]:
    made = start(folder)
    made[0].start.conditioning.ClearField("embeddings")
    return made


def missing_chunk(folder: Path) -> list[Any]:
    made = start(folder)
    header = made[0].start.conditioning.embeddings
    header.data, header.num_chunks = b"", 1
    return made * 2


def asking(**params: Any) -> Callable[[Path], list[Any]]:
    return lambda folder: start(folder, **params)


BAD: dict[str, Bad] = {
    "no start": (
        lambda _: [pb.DecodeRequest(chunk=tensor_pb2.TensorChunk(data=b"0"))],
        "INVALID_ARGUMENT",
        "the first message must be a start",
    ),
    "no conditioning": (bare, "INVALID_ARGUMENT", "start.conditioning is missing"),
    "no embeddings": (without_embeddings, "INVALID_ARGUMENT", "conditioning.embeddings.dtype is 0"),
    "shape": (asking(hidden=HIDDEN[:3]), "INVALID_ARGUMENT", "hidden_states.shape is (3, 32), must be (4, 32)"),
    "NaN": (asking(embeddings=NAN), "INVALID_ARGUMENT", "holds NaN or infinity"),
    "missing chunk": (missing_chunk, "INVALID_ARGUMENT", "announced more chunks than followed"),
    "seed": (asking(seed=-1), "INVALID_ARGUMENT", "params.seed is -1, must be 0 to 9223372036854775807"),
    "no steps": (asking(num_inference_steps=0), "INVALID_ARGUMENT", "num_inference_steps is 0, must be 1 to 50"),
    "steps": (asking(num_inference_steps=51), "INVALID_ARGUMENT", "num_inference_steps is 51, must be 1 to 50"),
    "guidance": (asking(guidance_scale=50.5), "INVALID_ARGUMENT", "guidance_scale is 50.5, must be 0 to 50"),
    "no guidance": (asking(guidance_scale=float("nan")), "INVALID_ARGUMENT", "guidance_scale is nan"),
    "preview": (asking(preview_interval=-1), "INVALID_ARGUMENT", "preview_interval is -1"),
    "space": (
        asking(space="other/img@0"),
        "FAILED_PRECONDITION",
        "conditioning.space is 'other/img@0', decoder tiny 1.0.0 understands 'tiny/img@",
    ),
    "source image": (edited, "UNIMPLEMENTED", "decoder tiny 1.0.0 starts from no source_image"),
    "loop": (
        lambda folder: [*start(folder), pb.DecodeRequest(hidden_states=llm_pb2.HiddenStates())],
        "UNIMPLEMENTED",
        "decoder tiny 1.0.0 takes its conditioning once",
    ),
    "second start": (lambda folder: start(folder) * 2, "INVALID_ARGUMENT", "a start message came after the start"),
}


@pytest.mark.parametrize("case", BAD)
async def test_refused_then_the_next_one_works(tiny_checkpoint: Path, case: str) -> None:
    requests, code, complaint = BAD[case]
    async with decoder(tiny_checkpoint) as (stub, engine, _):
        found, message = await refused(Exchange(stub.Decode, requests(tiny_checkpoint)).all())
        assert (found, complaint in message) == (code, True), message
        await draw(stub, start(tiny_checkpoint, num_inference_steps=1))
        assert (engine.num_denoisings, engine.load.num_running) == (0, 0)


@pytest.mark.parametrize("way", ["cancel", "half_close", "deadline"])
async def test_leaving_frees_within_a_step(tiny_checkpoint: Path, way: str) -> None:
    requests = start(tiny_checkpoint, num_inference_steps=50)
    async with decoder(tiny_checkpoint) as (stub, engine, _):
        exchange = Exchange(stub.Decode, requests, timeout=0.2 if way == "deadline" else 60)
        await anext(aiter(exchange.call))
        if way == "cancel":
            exchange.call.cancel()
        elif way == "half_close":
            exchange.half_close()
            assert (await refused(exchange.all()))[0] == "CANCELLED"
        await eventually(lambda: engine.num_denoisings == 0 and engine.load.num_running == 0)
        await draw(stub, start(tiny_checkpoint, num_inference_steps=1))


async def test_full_queue_then_room_again(tiny_checkpoint: Path) -> None:
    long = start(tiny_checkpoint, num_inference_steps=40, seed=1)
    async with decoder(tiny_checkpoint, max_num_requests=1, max_queue_size=1) as (stub, engine, _):
        running = [asyncio.create_task(draw(stub, long)) for _ in range(2)]
        await eventually(lambda: engine.load.num_waiting == 1)
        code, message = await refused(draw(stub, long))
        assert (code, message) == ("RESOURCE_EXHAUSTED", "decoder queue is full: 1 running, 1 waiting, at most 1")
        (first, _), (second, _) = await asyncio.gather(*running)
        assert first.image == second.image
        assert second.queued_ms > 0
        await draw(stub, start(tiny_checkpoint, num_inference_steps=1))
