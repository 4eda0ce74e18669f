"""The LLM service over real gRPC: what it says is what `unified.generate` says, and no input breaks it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.services.components import Exchange, eventually, llm, refused
from triptych.card import read_card
from triptych.models.llm_stage import ImagePolicy, LlmStage
from triptych.models.unified import generate
from triptych.prompts import ImageSlot, Segment, Special, Text
from triptych.tensors import TensorAssembler, to_messages
from triptych.v1 import llm_pb2 as pb

SEGMENTS: list[Segment] = [Special("<s>"), ImageSlot(0), Text("USER: draw the red cube"), Text(" ASSISTANT:")]
POLICIES: dict[ImagePolicy, Any] = {
    "allow": pb.IMAGE_POLICY_ALLOW,
    "forbid": pb.IMAGE_POLICY_FORBID,
    "force": pb.IMAGE_POLICY_FORCE,
}
IMAGE = np.random.default_rng(0).standard_normal((4, 32), np.float32)


@dataclass
class Answer:
    text: str = ""
    text_ids: list[int] = field(default_factory=list)
    hidden: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    finish: pb.Finish = field(default_factory=pb.Finish)


def prompt(checkpoint: Path, segments: Sequence[Segment] = SEGMENTS, image: Any = IMAGE, **fields: Any) -> list[Any]:
    """The Prompt and its chunks."""
    fields = {"embeddings_space": read_card(checkpoint / "llm").input("embeddings").space} | fields
    message = pb.Prompt(**fields)
    chunks: list[Any] = []
    for segment in segments:
        if isinstance(segment, ImageSlot):
            header, following = to_messages(image)
            message.segments.add(embeddings=header)
            chunks += following
        elif isinstance(segment, Special):
            message.segments.add(special_token=segment.token)
        else:
            message.segments.add(text=segment.text)
    return [pb.GenerateRequest(prompt=message), *(pb.GenerateRequest(chunk=chunk) for chunk in chunks)]


async def ask(stub: Any, requests: list[Any]) -> Answer:
    answer, open_tensors = Answer(), list[TensorAssembler]()
    for response in await Exchange(stub.Generate, requests).all():
        kind = response.WhichOneof("event")
        answer.kinds.append(kind)
        if kind == "text":
            answer.text += response.text.text
            answer.text_ids += response.text.token_ids
        elif kind == "hidden_states":
            sent = response.hidden_states
            open_tensors = [TensorAssembler(part, 2**20) for part in (sent.hidden_states, sent.embeddings)]
            answer.hidden.append((open_tensors[0].array(), open_tensors[1].array()))
        elif kind == "finish":
            answer.finish = response.finish
    return answer


@pytest.mark.parametrize("policy", POLICIES)
async def test_says_what_the_model_says(tiny_checkpoint: Path, policy: ImagePolicy) -> None:
    stage = LlmStage.load(tiny_checkpoint / "llm")
    with torch.inference_mode():
        embedded = stage.embed(SEGMENTS, [torch.from_numpy(IMAGE)])
        reply, hidden = generate(stage, embedded, policy, max_tokens=12, max_images=2)
    sampling = pb.SamplingParams(max_tokens=12)
    requests = prompt(tiny_checkpoint, sampling=sampling, image_policy=POLICIES[policy], max_images=2)
    async with llm(tiny_checkpoint) as (stub, _, _):
        answer = await ask(stub, requests)
    assert list(answer.finish.token_ids) == reply.token_ids
    assert (answer.text, answer.finish.reason) == (reply.text, reply.finish_reason)
    assert len(answer.hidden) == len(hidden) == answer.finish.usage.num_images
    for (states, embeddings), expected in zip(answer.hidden, hidden, strict=True):
        assert np.array_equal(states, expected.hidden_states[0].numpy())
        assert np.array_equal(embeddings, expected.embeddings[0].numpy())
    assert {"force": len(hidden) >= 1, "forbid": not hidden, "allow": True}[policy]
    assert len(reply.text) > 5
    assert answer.finish.usage.num_prompt_tokens == embedded.shape[1]


async def test_order_of_a_forced_picture(tiny_checkpoint: Path) -> None:
    async with llm(tiny_checkpoint) as (stub, _, _):
        answer = await ask(
            stub,
            prompt(
                tiny_checkpoint,
                image_policy=pb.IMAGE_POLICY_FORCE,
                max_images=1,
                sampling=pb.SamplingParams(max_tokens=3),
            ),
        )
    assert answer.kinds[:3] == ["image_start", "hidden_states", "image_end"]
    assert answer.kinds[-1] == "finish"
    stage = LlmStage.load(tiny_checkpoint / "llm")
    assert list(answer.finish.token_ids)[: len(stage.image_ids)] == stage.image_ids


async def test_same_seed_same_tokens_whatever_else_runs(tiny_checkpoint: Path) -> None:
    sampling = pb.SamplingParams(temperature=1.5, top_k=50, top_p=0.95, seed=7, max_tokens=20)
    requests = prompt(tiny_checkpoint, sampling=sampling)
    async with llm(tiny_checkpoint) as (stub, engine, _):
        alone = await ask(stub, requests)
        others = [
            prompt(tiny_checkpoint, sampling=pb.SamplingParams(temperature=1.0, seed=seed, max_tokens=20))
            for seed in range(4)
        ]
        together = await asyncio.gather(*(ask(stub, each) for each in (*others[:2], requests, *others[2:])))
        assert engine.num_caches == 0
    assert alone.finish.token_ids == together[2].finish.token_ids
    assert len({tuple(answer.finish.token_ids) for answer in together}) > 1


async def test_reply_goes_back_in_as_token_ids(tiny_checkpoint: Path) -> None:
    async with llm(tiny_checkpoint) as (stub, _, _):
        first = await ask(stub, prompt(tiny_checkpoint, sampling=pb.SamplingParams(max_tokens=6)))
        requests = prompt(tiny_checkpoint)
        requests[0].prompt.segments.add(token_ids=pb.TokenIds(ids=first.finish.token_ids))
        second = await ask(stub, requests)
    added = second.finish.usage.num_prompt_tokens - first.finish.usage.num_prompt_tokens
    assert added == len(first.finish.token_ids)


async def test_stop_string_ends_the_reply(tiny_checkpoint: Path) -> None:
    policy = pb.IMAGE_POLICY_FORBID
    async with llm(tiny_checkpoint) as (stub, _, _):
        whole = await ask(stub, prompt(tiny_checkpoint, sampling=pb.SamplingParams(max_tokens=12), image_policy=policy))
        stop = whole.text[len(whole.text) // 2 :][:2]
        sampling = pb.SamplingParams(max_tokens=12, stop=[stop])
        cut = await ask(stub, prompt(tiny_checkpoint, sampling=sampling, image_policy=policy))
    assert cut.text == whole.text[: whole.text.index(stop)].rstrip()
    assert cut.finish.reason == "stop"


async def test_stop_string_beside_an_unfinished_character_ends_the_reply(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = prompt(tiny_checkpoint, sampling=pb.SamplingParams(max_tokens=1, stop=["END"]))
    async with llm(tiny_checkpoint) as (stub, engine, _):
        monkeypatch.setattr(engine._runner, "decode", lambda ids: "one END\ufffd" if ids else "")
        answer = await ask(stub, requests)
    assert (answer.text, answer.finish.reason) == ("one", "stop")


async def test_text_is_never_a_special_token(tiny_checkpoint: Path) -> None:
    spelled: list[Segment] = [Special("<s>"), Text("[SOI] </s>")]
    async with llm(tiny_checkpoint) as (stub, _, _):
        answer = await ask(stub, prompt(tiny_checkpoint, spelled, sampling=pb.SamplingParams(max_tokens=1)))
    assert answer.finish.usage.num_prompt_tokens > 5


async def test_context_limit_is_length(tiny_checkpoint: Path) -> None:
    segments: list[Segment] = [Special("<s>") for _ in range(120)]
    sampling = pb.SamplingParams(max_tokens=1000, temperature=2.0, seed=1)
    requests = prompt(tiny_checkpoint, segments, sampling=sampling, image_policy=pb.IMAGE_POLICY_FORBID)
    async with llm(tiny_checkpoint) as (stub, _, _):
        finish = (await ask(stub, requests)).finish
    assert (finish.reason, len(finish.token_ids)) == ("length", 9)


async def test_cancel_frees_the_cache_within_a_step(tiny_checkpoint: Path) -> None:
    sampling = pb.SamplingParams(max_tokens=100, temperature=1.0, seed=3)
    async with llm(tiny_checkpoint) as (stub, engine, _):
        exchange = Exchange(stub.Generate, prompt(tiny_checkpoint, sampling=sampling))
        await anext(aiter(exchange.call))
        exchange.call.cancel()
        await eventually(lambda: engine.num_caches == 0 and engine.load.num_running == 0)
        assert (await ask(stub, prompt(tiny_checkpoint))).finish.reason


async def test_half_close_means_gone(tiny_checkpoint: Path) -> None:
    async with llm(tiny_checkpoint) as (stub, engine, _):
        exchange = Exchange(stub.Generate, prompt(tiny_checkpoint, sampling=pb.SamplingParams(max_tokens=100)))
        exchange.half_close()
        code, _ = await refused(exchange.all())
        assert code == "CANCELLED"
        await eventually(lambda: engine.num_caches == 0 and engine.load.num_running == 0)


async def test_deadline_frees(tiny_checkpoint: Path) -> None:
    requests = prompt(tiny_checkpoint, sampling=pb.SamplingParams(max_tokens=100, temperature=2.0, seed=2))
    async with llm(tiny_checkpoint) as (stub, engine, _):
        code, _ = await refused(Exchange(stub.Generate, requests, timeout=0.05).all())
        assert code == "DEADLINE_EXCEEDED"
        await eventually(lambda: engine.num_caches == 0 and engine.load.num_running == 0)


async def test_full_queue_then_room_again(tiny_checkpoint: Path) -> None:
    long = prompt(tiny_checkpoint, sampling=pb.SamplingParams(max_tokens=90, temperature=3.0, seed=0))
    async with llm(tiny_checkpoint, max_num_seqs=1, max_queue_size=1) as (stub, engine, _):
        running = [asyncio.create_task(ask(stub, long)) for _ in range(2)]
        await eventually(lambda: engine.load.num_waiting == 1)
        code, message = await refused(ask(stub, long))
        assert (code, message) == ("RESOURCE_EXHAUSTED", "llm queue is full: 1 running, 1 waiting, at most 1")
        first, second = await asyncio.gather(*running)
        assert first.finish.token_ids == second.finish.token_ids
        assert second.finish.queued_ms > 0
        await ask(stub, long)
