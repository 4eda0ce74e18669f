"""The encoder service over real gRPC: its embeddings are EncoderStage's, and no input breaks it."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from services.encoder.config import EncoderConfig
from tests.services.components import encoder, eventually, refused
from tests.services.encoder.calls import embed, encoded, picture
from triptych.card import read_card
from triptych.models.encoder_stage import EncoderStage
from triptych.v1 import component_pb2, component_pb2_grpc
from triptych.v1 import encoder_pb2 as pb


async def test_embeddings_are_the_stage_s(tiny_checkpoint: Path) -> None:
    stage = EncoderStage.load(tiny_checkpoint / "encoder")
    pictures = [picture(40, 24, 0), picture(64, 64, 1), picture(7, 90, 2)]
    async with encoder(tiny_checkpoint, max_batch_size=2) as (stub, _, _):
        found, done = await embed(stub, [encoded(image) for image in pictures])
    with torch.inference_mode():
        batches = (stage(stage.preprocess(pictures[:2])), stage(stage.preprocess(pictures[2:])))
    expected = torch.cat(batches).numpy()
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert done.space == read_card(tiny_checkpoint / "encoder").output("embeddings").space
    assert done.running_ms > 0


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
async def test_formats(tiny_checkpoint: Path, format: str) -> None:
    async with encoder(tiny_checkpoint) as (stub, _, _):
        found, _ = await embed(stub, [encoded(picture(), format)])
    assert found[0].shape == (4, 32)


BOMB = encoded(Image.new("1", (5000, 5000)))
BAD = {
    "garbage": (b"no picture at all", "images[1] (17 bytes) must be a whole PNG"),
    "empty": (b"", "images[1] has 0 bytes"),
    "truncated": (encoded(picture())[:-700], "images[1]"),
    "truncated jpeg": (encoded(picture(200, 200), "JPEG")[:3000], "images[1]"),
    "header only": (encoded(picture())[:33], "images[1]"),
    "bomb": (BOMB, "images[1] is 5000x5000, must have at most 1000000 pixels"),
}


@pytest.mark.parametrize("bad", BAD)
async def test_bad_image_then_a_good_one(tiny_checkpoint: Path, bad: str) -> None:
    data, complaint = BAD[bad]
    good = encoded(picture())
    async with encoder(tiny_checkpoint, max_pixels=1_000_000) as (stub, _, _):
        code, message = await refused(embed(stub, [good, data]))
        assert (code, complaint in message) == ("INVALID_ARGUMENT", True), message
        assert len((await embed(stub, [good]))[0]) == 1


@pytest.mark.parametrize("count", [0, 100])
async def test_number_of_images(tiny_checkpoint: Path, count: int) -> None:
    async with encoder(tiny_checkpoint) as (stub, _, _):
        code, message = await refused(embed(stub, [encoded(picture())] * count))
    assert (code, message) == ("INVALID_ARGUMENT", f"images has {count} entries, must be 1 to 16")


async def test_full_queue_then_room_again(tiny_checkpoint: Path) -> None:
    many = [encoded(picture(900, 900, seed)) for seed in range(8)]
    async with encoder(tiny_checkpoint, max_queue_size=1, max_batch_size=1) as (stub, engine, _):
        running = [asyncio.create_task(embed(stub, many)) for _ in range(2)]
        await eventually(lambda: engine.load.num_running == 1 and engine.load.num_waiting == 1)
        code, message = await refused(embed(stub, many[:1]))
        assert (code, "encoder queue is full" in message) == ("RESOURCE_EXHAUSTED", True)
        for task in running:
            assert len((await task)[0]) == 8
        await embed(stub, many[:1])


async def test_cancelled_call_stops_the_work(tiny_checkpoint: Path) -> None:
    many = [encoded(picture(900, 900, seed)) for seed in range(16)]
    async with encoder(tiny_checkpoint, max_batch_size=1) as (stub, engine, _):
        call = stub.Encode(pb.EncodeRequest(images=many), timeout=60)
        await anext(aiter(call))
        call.cancel()
        await eventually(lambda: engine.load.num_running == 0)
        assert len((await embed(stub, many[:1]))[0]) == 1


async def test_describes_itself(tiny_checkpoint: Path) -> None:
    async with encoder(tiny_checkpoint) as (_, _, channel):
        described = await component_pb2_grpc.ComponentServiceStub(channel).Describe(component_pb2.DescribeRequest())
    assert described.card.digest == read_card(tiny_checkpoint / "encoder").digest
    assert (described.device, described.dtype, described.backend) == ("cpu", "f32", "torch")
    assert described.probe_cosine > 0.999999


def test_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENCODER_MAX_BATCH_SIZE", "3")
    config = EncoderConfig.from_args(["--checkpoint", str(tmp_path), "--max-pixels", "10"])
    assert (config.max_batch_size, config.max_pixels) == (3, 10)
