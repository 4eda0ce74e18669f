"""The three calls of the pipeline, each on one replica at a time. A replica that goes away is replaced by another of
the same card, and the user cannot tell the difference: the same seed gives the same tokens and paints the same picture,
so what was already handed on of a lost reply is passed over when it is redone.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import grpc.aio
import numpy as np

from services.orchestrator.backends import Backends
from services.orchestrator.cache import Embeddings
from services.orchestrator.hedging import hedged
from services.orchestrator.replay import Mark, Replay
from services.orchestrator.replica import CORE_FAILED, Ongoing, Replica
from services.orchestrator.routing import Candidate
from services.orchestrator.tally import Tally
from triptych import traces
from triptych.errors import InvalidArgument, ResourceExhausted, TriptychError, Unavailable
from triptych.tensors import CHUNK_BYTES, TensorAssembler
from triptych.v1 import decoder_pb2, decoder_pb2_grpc, encoder_pb2, encoder_pb2_grpc, llm_pb2, llm_pb2_grpc, tensor_pb2
from triptych.v1 import orchestrator_pb2 as pb

MAX_TENSOR_BYTES: Final = 256 * 1024 * 1024  # no single image's embeddings or hidden states come near


@dataclass(frozen=True)
class Conditioning:
    """Hidden states as the LLM sent them: header and chunks, passed on unopened."""

    header: llm_pb2.HiddenStates
    chunks: tuple[tensor_pb2.TensorChunk, ...]


BLAMED: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)  # on the replica

GenerateEvent = llm_pb2.TextDelta | llm_pb2.ImageStart | Conditioning | llm_pb2.Finish
DecodeEvent = decoder_pb2.Progress | decoder_pb2.Preview | decoder_pb2.DecodedImage
Work = encoder_pb2.EncodeDone | llm_pb2.Finish | decoder_pb2.DecodedImage  # say how long it took
TimeoutFor = Callable[[str], float]
In = TypeVar("In")
Out = TypeVar("Out")


class Stages:
    """The calls of one request."""

    def __init__(self, backends: Backends, tally: Tally, timeout_for: TimeoutFor) -> None:
        """`timeout_for(stage)`: seconds left for a call that starts now."""
        self._backends = backends
        self._tally = tally
        self._timeout_for = timeout_for

    async def encode(self, candidate: Candidate, images: Sequence[bytes]) -> list[Embeddings]:
        """One (num_tokens, hidden_size) array per image, in order."""
        attempts = self._backends.attempts(candidate)
        while True:
            delay_s = self._backends.encode_times.delay_s(len(images))
            try:
                return await hedged(
                    partial(self._encode, attempts.replica, candidate, images),
                    lambda: self._encode(spare, candidate, images) if (spare := attempts.spare()) else None,
                    delay_s,
                )
            except (Unavailable, ResourceExhausted) as error:
                await attempts.advance(error)

    async def generate(
        self, candidate: Candidate, prompt: llm_pb2.Prompt, chunks: Sequence[tensor_pb2.TensorChunk]
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Ends with one Finish. `prompt` must hold a seed, or a redone reply would be another one."""
        assert prompt.sampling.HasField("seed")
        attempts = self._backends.attempts(candidate)
        replay = Replay()
        while True:
            replay.rewind()
            try:
                async with aclosing(self._generate(attempts.replica, prompt, chunks)) as events:
                    async for event in events:
                        if (fresh := _unseen(event, replay)) is not None:
                            yield fresh
            except (Unavailable, ResourceExhausted) as error:
                await attempts.advance(error, has_begun=not replay.is_empty)
            else:
                return

    async def decode(
        self, candidate: Candidate, params: decoder_pb2.DecodeParams, conditioning: Conditioning
    ) -> AsyncGenerator[DecodeEvent, None]:
        """Ends with one DecodedImage. `params` must hold a seed, or a redone picture would be another one."""
        assert params.HasField("seed")
        attempts = self._backends.attempts(candidate)
        shown: dict[type[DecodeEvent], int] = {}
        while True:
            try:
                async with aclosing(self._decode(attempts.replica, params, conditioning)) as events:
                    async for event in events:
                        if not isinstance(event, decoder_pb2.DecodedImage):
                            if event.step <= shown.get(type(event), 0):
                                continue
                            shown[type(event)] = event.step
                        yield event
            except (Unavailable, ResourceExhausted) as error:
                await attempts.advance(error, has_begun=True)
            else:
                return

    async def _encode(self, replica: Replica, candidate: Candidate, images: Sequence[bytes]) -> list[Embeddings]:
        stub = encoder_pb2_grpc.EncoderServiceStub(replica.channel)
        assemblers: list[TensorAssembler] = []
        done = encoder_pb2.EncodeDone()
        began = time.monotonic()
        with self._calling(replica) as (ongoing, span):
            with traces.within(span):
                call = stub.Encode(encoder_pb2.EncodeRequest(images=images), timeout=self._timeout_for("encoder"))
            ongoing.call = call
            try:
                async for response in replica.hearing.listened(call):
                    if response.HasField("embedding"):
                        assemblers.append(TensorAssembler(response.embedding.embeddings, MAX_TENSOR_BYTES))
                    elif response.HasField("chunk") and assemblers:
                        assemblers[-1].add(response.chunk)
                    else:
                        done = response.done
                arrays = [assembler.array().astype(np.float32, copy=False) for assembler in assemblers]
            except InvalidArgument as error:
                raise _broken(replica, f"sent a malformed tensor: {error}") from error
            finally:
                call.cancel()
        _check_encoded(replica, candidate, len(images), arrays, done.space)
        self._ended(replica, ongoing.served_by, done, len(images))
        self._backends.encode_times.add(time.monotonic() - began, len(images))
        return arrays

    async def _generate(
        self, replica: Replica, prompt: llm_pb2.Prompt, chunks: Sequence[tensor_pb2.TensorChunk]
    ) -> AsyncGenerator[GenerateEvent, None]:
        stub = llm_pb2_grpc.LlmServiceStub(replica.channel)
        requests = [llm_pb2.GenerateRequest(prompt=prompt), *(llm_pb2.GenerateRequest(chunk=c) for c in chunks)]
        finish: llm_pb2.Finish | None = None
        async with self._exchange(replica, stub.Generate, requests) as (served_by, responses):
            async for response in responses:
                match response.WhichOneof("event"):
                    case "text":
                        yield response.text
                    case "image_start":
                        yield response.image_start
                    case "hidden_states":
                        yield await _conditioning(replica, response.hidden_states, responses)
                    case "finish":
                        finish = response.finish
        if finish is None:
            raise _broken(replica, "ended its stream without a Finish")
        self._ended(replica, served_by, finish, finish.usage.num_generated_tokens + 1)
        yield finish

    async def _decode(
        self, replica: Replica, params: decoder_pb2.DecodeParams, conditioning: Conditioning
    ) -> AsyncGenerator[DecodeEvent, None]:
        stub = decoder_pb2_grpc.DecoderServiceStub(replica.channel)
        start = decoder_pb2.Start(params=params, conditioning=conditioning.header)
        requests = [
            decoder_pb2.DecodeRequest(start=start),
            *(decoder_pb2.DecodeRequest(chunk=chunk) for chunk in conditioning.chunks),
        ]
        image: decoder_pb2.DecodedImage | None = None
        num_steps = 1
        async with self._exchange(replica, stub.Decode, requests) as (served_by, responses):
            async for response in responses:
                match response.WhichOneof("event"):
                    case "progress":
                        num_steps = response.progress.num_steps
                        yield response.progress
                    case "preview":
                        yield response.preview
                    case "image":
                        image = response.image
        if image is None:
            raise _broken(replica, "ended its stream without an image")
        self._ended(replica, served_by, image, num_steps)
        yield image

    def _ended(self, replica: Replica, served_by: pb.ServedBy, work: Work, num_units: int) -> None:
        """`num_units`: pictures, tokens or steps, of which a replica takes about the same time for each. It takes them
        in turns with what else it has.
        """
        num_turns = 1 if replica.stage == "encoder" else replica.load + 1
        self._backends.outliers.succeeded(replica.address, work.running_ms / num_units / num_turns)
        self._tally.ended(served_by, work.queued_ms, work.running_ms, num_units)

    @contextmanager
    def _calling(self, replica: Replica) -> Iterator[tuple[Ongoing, traces.Span]]:
        """Around a call. The span is open for transport too, and the LLM's also while pictures are drawn."""
        span = traces.current().child(f"call {replica.stage}", "client", address=replica.address)
        with span, self._tally.calling(replica.stage, replica.generation), replica.calling() as ongoing:
            span.set(replica=ongoing.served_by.replica_id, card=ongoing.served_by.digest)
            try:
                yield ongoing, span
            except grpc.aio.AioRpcError as error:
                if error.code() in BLAMED and error.details() != CORE_FAILED:
                    self._backends.outliers.failed(replica.address)
                raise

    @asynccontextmanager
    async def _exchange(
        self, replica: Replica, method: grpc.aio.StreamStreamMultiCallable[In, Out], requests: Sequence[In]
    ) -> AsyncIterator[tuple[pb.ServedBy, AsyncIterator[Out]]]:
        """A call whose request stream stays open until the block ends: half-close would say that we gave up. Leaving
        the block in any way ends the call.
        """
        closed = asyncio.Event()

        async def stream() -> AsyncIterator[In]:
            for request in requests:
                yield request
            await closed.wait()

        with self._calling(replica) as (ongoing, span):
            with traces.within(span):
                call = method(stream(), timeout=self._timeout_for(replica.stage))
            ongoing.call = call
            try:
                yield ongoing.served_by, replica.hearing.listened(call)
            finally:
                closed.set()
                call.cancel()


def _unseen(event: GenerateEvent, replay: Replay) -> GenerateEvent | None:
    """What of `event` the user does not have yet. Raises TriptychError when it is not the reply seen before."""
    match event:
        case llm_pb2.TextDelta():
            fresh = replay.text(event.text)
            return llm_pb2.TextDelta(text=fresh) if fresh else None
        case llm_pb2.ImageStart():
            return event if replay.mark(Mark("image_start", event.image_index)) else None
        case Conditioning():
            return event if replay.mark(Mark("hidden_states", event.header.image_index)) else None
        case _:
            replay.end()
            return event


async def _conditioning(
    replica: Replica, header: llm_pb2.HiddenStates, responses: AsyncIterator[llm_pb2.GenerateResponse]
) -> Conditioning:
    """Reads the chunks that the header announces."""
    num_chunks = header.hidden_states.num_chunks + header.embeddings.num_chunks
    if num_chunks * CHUNK_BYTES > MAX_TENSOR_BYTES:
        raise _broken(replica, f"announced {num_chunks} chunks of hidden states, above {MAX_TENSOR_BYTES} bytes")
    chunks: list[tensor_pb2.TensorChunk] = []
    with traces.span("receive", chunks=num_chunks):
        await _read(replica, num_chunks, chunks, responses)
    return Conditioning(header, tuple(chunks))


async def _read(
    replica: Replica,
    num_chunks: int,
    chunks: list[tensor_pb2.TensorChunk],
    responses: AsyncIterator[llm_pb2.GenerateResponse],
) -> None:
    while len(chunks) < num_chunks:
        response = await anext(responses, None)
        if response is None or not response.HasField("chunk"):
            raise _broken(replica, f"sent {len(chunks)} of {num_chunks} announced chunks of hidden states")
        chunks.append(response.chunk)


def _check_encoded(
    replica: Replica, candidate: Candidate, num_images: int, arrays: Sequence[Embeddings], space: str
) -> None:
    """The card may have changed since the last poll; what it sends now must still be what the chain was chosen for."""
    expected = candidate.card.output("embeddings").space
    if len(arrays) != num_images or space != expected:
        found = f"{len(arrays)} embeddings in space {space!r}"
        raise _broken(replica, f"sent {found} for {num_images} images in space {expected!r}")
    if shapes := [array.shape for array in arrays if array.ndim != 2]:
        raise _broken(replica, f"sent embeddings of shape {shapes[0]}, must be (num_tokens, hidden_size)")


def _broken(replica: Replica, what: str) -> TriptychError:
    return TriptychError(f"{replica.stage} at {replica.address} {what}", stage=replica.stage, replica=replica.address)
