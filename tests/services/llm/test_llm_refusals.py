"""Every wrong request is refused by name, and the next good one is answered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.services.components import Exchange, llm, refused
from tests.services.llm.test_llm_service import IMAGE, ask, prompt
from triptych.prompts import ImageSlot, Special, Text
from triptych.tensors import to_messages
from triptych.v1 import llm_pb2 as pb
from triptych.v1 import tensor_pb2

Requests = list[Any]
NAN = IMAGE.copy()
NAN[1, 2] = np.nan


def sampling(**fields: Any) -> Callable[[Path], Requests]:
    return lambda folder: prompt(folder, sampling=pb.SamplingParams(**fields))


def segment(**fields: Any) -> Callable[[Path], Requests]:
    return lambda _: [pb.GenerateRequest(prompt=pb.Prompt(segments=[pb.Segment(**fields)]))]


def picture(values: np.ndarray, dtype: Any = None) -> Callable[[Path], Requests]:
    def requests(folder: Path) -> Requests:
        made = prompt(folder, [Special("<s>"), ImageSlot(0)], values)
        if dtype is not None:
            made[0].prompt.segments[1].embeddings.dtype = dtype
        return made

    return requests


def huge(folder: Path) -> Requests:
    made = prompt(folder)
    header = made[0].prompt.segments[1].embeddings
    header.shape[:] = [2**40, 32]
    header.num_chunks = 2**30
    header.data = b""
    return made


def missing_chunk(folder: Path) -> Requests:
    made = prompt(folder)
    header = made[0].prompt.segments[1].embeddings
    header.data, header.num_chunks = b"", 1
    return [*made, made[0]]


def too_large_chunk(folder: Path) -> Requests:
    made = missing_chunk(folder)[:1]
    return [*made, pb.GenerateRequest(chunk=tensor_pb2.TensorChunk(data=b"0" * 513))]


BAD: dict[str, tuple[Callable[[Path], Requests], str, str]] = {
    "no prompt first": (
        lambda _: [pb.GenerateRequest(chunk=tensor_pb2.TensorChunk(data=b"0"))],
        "INVALID_ARGUMENT",
        "the first message must be a prompt",
    ),
    "no segments": (
        lambda _: [pb.GenerateRequest(prompt=pb.Prompt())],
        "INVALID_ARGUMENT",
        "prompt.segments is empty",
    ),
    "no tokens": (segment(text=""), "INVALID_ARGUMENT", "hold 0 tokens"),
    "empty segment": (segment(), "INVALID_ARGUMENT", "prompt.segments[0] is empty"),
    "unknown special token": (
        segment(special_token="[NOPE]"),
        "INVALID_ARGUMENT",
        "prompt.segments[0].special_token is '[NOPE]'",
    ),
    "token id above": (
        segment(token_ids=pb.TokenIds(ids=[0, 100000])),
        "INVALID_ARGUMENT",
        "prompt.segments[0].token_ids has 100000, must be 0 to",
    ),
    "too many token ids": (
        segment(token_ids=pb.TokenIds(ids=[20] * 129)),
        "INVALID_ARGUMENT",
        "prompt.segments[0].token_ids has 129 ids, must be at most 128",
    ),
    "token id below": (segment(token_ids=pb.TokenIds(ids=[-1])), "INVALID_ARGUMENT", "token_ids has -1"),
    "too long": (
        lambda folder: prompt(folder, [Special("<s>")] * 129),
        "INVALID_ARGUMENT",
        "hold 129 tokens, must be at most 128",
    ),
    "absurdly long text": (segment(text="x" * 1_000_000), "INVALID_ARGUMENT", "has 1000000 characters"),
    "no room for the forced picture": (
        lambda folder: prompt(folder, [Special("<s>")] * 125, image_policy=pb.IMAGE_POLICY_FORCE),
        "INVALID_ARGUMENT",
        "hold 125 tokens and the image another 6",
    ),
    "temperature": (sampling(temperature=-1), "INVALID_ARGUMENT", "sampling.temperature is -1"),
    "top_p": (sampling(top_p=1.5), "INVALID_ARGUMENT", "sampling.top_p is 1.5"),
    "max_tokens": (sampling(max_tokens=0), "INVALID_ARGUMENT", "sampling.max_tokens is 0"),
    "policy": (lambda folder: prompt(folder, image_policy=9), "INVALID_ARGUMENT", "image_policy is 9"),
    "max_images": (
        lambda folder: prompt(folder, max_images=17),
        "INVALID_ARGUMENT",
        "max_images is 17, must be 0 to 16",
    ),
    "hidden size": (
        picture(IMAGE[:, :16].copy()),
        "INVALID_ARGUMENT",
        "embeddings.shape is (4, 16), must be (num_tokens, 32)",
    ),
    "rank": (picture(IMAGE[None]), "INVALID_ARGUMENT", "shape is (1, 4, 32)"),
    "too many rows": (picture(np.ones((129, 32), np.float32)), "INVALID_ARGUMENT", "must be 1 to 128"),
    "huge": (huge, "INVALID_ARGUMENT", "must be 1 to 128"),
    "not floats": (picture(IMAGE, tensor_pb2.D_TYPE_I32), "INVALID_ARGUMENT", "embeddings.dtype is 5"),
    "NaN": (picture(NAN), "INVALID_ARGUMENT", "holds NaN or infinity"),
    "missing chunk": (missing_chunk, "INVALID_ARGUMENT", "announced more chunks than followed"),
    "too large a chunk": (too_large_chunk, "INVALID_ARGUMENT", "513"),
    "space": (
        lambda folder: prompt(folder, embeddings_space="other/llm-input@0"),
        "FAILED_PRECONDITION",
        "embeddings_space is 'other/llm-input@0', llm tiny 1.0.0 understands 'tiny/llm-input@",
    ),
    "loop": (
        lambda folder: [*prompt(folder), pb.GenerateRequest(image_embeddings=pb.ImageEmbeddings())],
        "UNIMPLEMENTED",
        "llm tiny 1.0.0 hands over once",
    ),
    "second prompt": (lambda folder: prompt(folder) * 2, "INVALID_ARGUMENT", "a prompt message came after the prompt"),
}


@pytest.mark.parametrize("case", BAD)
async def test_refused_then_the_next_one_works(tiny_checkpoint: Path, case: str) -> None:
    requests, code, complaint = BAD[case]
    async with llm(tiny_checkpoint) as (stub, engine, _):
        found, message = await refused(Exchange(stub.Generate, requests(tiny_checkpoint)).all())
        assert (found, complaint in message) == (code, True), message
        answer = await ask(stub, prompt(tiny_checkpoint, sampling=pb.SamplingParams(max_tokens=2)))
        assert answer.finish.reason
        assert (engine.num_caches, engine.load.num_running) == (0, 0)


@pytest.mark.parametrize(("bound", "complaint"), [(16, "must be 1 to 16"), (0, "draws no images")])
async def test_force_where_no_number_means_none(tiny_checkpoint: Path, bound: int, complaint: str) -> None:
    async with llm(tiny_checkpoint, default_max_images=0, max_images_per_request=bound) as (stub, _, _):
        requests = prompt(tiny_checkpoint, image_policy=pb.IMAGE_POLICY_FORCE)
        code, message = await refused(Exchange(stub.Generate, requests).all())
        assert (code, complaint in message) == ("INVALID_ARGUMENT", True), message


async def test_space_does_not_matter_without_embeddings(tiny_checkpoint: Path) -> None:
    async with llm(tiny_checkpoint) as (stub, _, _):
        requests = prompt(tiny_checkpoint, [Special("<s>"), Text("USER: hello")], embeddings_space="other")
        assert (await ask(stub, requests)).finish.reason


async def test_bf16_in_chunks_is_the_same_picture(tiny_checkpoint: Path) -> None:
    rounded = (IMAGE.view(np.uint32) & 0xFFFF0000).view(np.float32)
    inline = prompt(tiny_checkpoint, image=rounded)
    header, _ = to_messages(rounded, "bf16")
    chunks = [header.data[:100], header.data[100:]]
    chunked = prompt(tiny_checkpoint, image=rounded)
    sent = chunked[0].prompt.segments[1].embeddings
    sent.CopyFrom(tensor_pb2.Tensor(dtype=header.dtype, shape=header.shape, num_chunks=2))
    chunked += [pb.GenerateRequest(chunk=tensor_pb2.TensorChunk(data=chunk)) for chunk in chunks]
    async with llm(tiny_checkpoint) as (stub, _, _):
        first, second = await ask(stub, inline), await ask(stub, chunked)
    assert first.finish.token_ids == second.finish.token_ids
