"""DecoderService: messages to a request, checked against the card; the engine's events back to messages."""

import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final, NoReturn

import grpc
import numpy as np
from numpy.typing import NDArray

from services.decoder.engine import DecoderEngine
from services.decoder.events import Event, Picture, Preview, Progress
from services.decoder.params import DecodeParams, DecoderFacts
from services.decoder.runner import DecodeRequest
from triptych import traces
from triptych.card import Card
from triptych.errors import Cancelled, FailedPrecondition, InvalidArgument, Unimplemented
from triptych.serving.batching import Timing
from triptych.serving.watching import while_open
from triptych.tensors import TensorAssembler
from triptych.v1 import decoder_pb2 as pb
from triptych.v1 import decoder_pb2_grpc, llm_pb2, tensor_pb2

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["DecoderService"].full_name

Requests = AsyncIterator[pb.DecodeRequest]


class DecoderServicer(decoder_pb2_grpc.DecoderServiceServicer):
    """Called by the orchestrator. Raises CheckpointError when the card lacks what callers must know."""

    def __init__(self, engine: DecoderEngine, card: Card) -> None:
        self._engine = engine
        self._card = card
        self._input = card.input("hidden_states")
        self._facts = DecoderFacts.of(card)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers with `server`; its name is SERVICE_NAME."""
        decoder_pb2_grpc.add_DecoderServiceServicer_to_server(self, server)

    async def Decode(self, request_iterator: Requests, context: object) -> AsyncIterator[pb.DecodeResponse]:
        message = await anext(request_iterator, None)
        if message is None or not message.HasField("start"):
            raise InvalidArgument("the first message must be a start")
        start = message.start
        if start.source_image:
            raise Unimplemented(f"{self._card.label} starts from no source_image: it draws what the LLM describes")
        params = self._params(start.params)
        request = DecodeRequest(*await self._conditioning(start, request_iterator), params)
        timing = Timing()
        events = self._engine.decode(request, timing)
        async with aclosing(while_open(events, self._watch(request_iterator))) as answered:
            async for event in answered:
                yield _response(event, params.seed, timing)

    async def _watch(self, requests: Requests) -> NoReturn:
        """The client has nothing more to say: whatever it sends ends the call, and so does its silence."""
        async for message in requests:
            if message.HasField("hidden_states"):
                raise Unimplemented(f"{self._card.label} takes its conditioning once: it runs no hidden_states")
            kind = message.WhichOneof("message")
            raise InvalidArgument(f"a {kind or 'nameless'} message came after the start, nothing was asked for")
        raise Cancelled("the client closed its side before the image was complete")

    def _params(self, message: pb.DecodeParams) -> DecodeParams:
        """With the card's defaults. Raises InvalidArgument for what is out of bounds."""
        facts = self._facts
        steps, scale = facts.default_num_inference_steps, facts.default_guidance_scale
        params = DecodeParams(
            seed=message.seed if message.HasField("seed") else secrets.randbits(63),
            num_inference_steps=message.num_inference_steps if message.HasField("num_inference_steps") else steps,
            guidance_scale=message.guidance_scale if message.HasField("guidance_scale") else scale,
            preview_interval=message.preview_interval,
        )
        params.check(facts)
        return params

    async def _conditioning(
        self, start: pb.Start, requests: Requests
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Hidden states and embeddings, (K, D) each."""
        if not start.HasField("conditioning"):
            raise InvalidArgument("start.conditioning is missing, must hold hidden_states and embeddings")
        sent = start.conditioning
        if sent.space != self._input.space and sent.space not in self._input.accepts:
            known = ", ".join(repr(known) for known in (self._input.space, *self._input.accepts))
            raise FailedPrecondition(f"conditioning.space is {sent.space!r}, {self._card.label} understands {known}")
        assemblers = self._assemblers(sent)
        with traces.span("receive", tensors=len(assemblers), bytes=sum(a.num_bytes for a in assemblers)):
            for assembler in assemblers:
                while not assembler.complete:
                    message = await anext(requests, None)
                    if message is None or not message.HasField("chunk"):
                        raise InvalidArgument("start.conditioning announced more chunks than followed it")
                    assembler.add(message.chunk)
        hidden_states, embeddings = (_finite(assembler) for assembler in assemblers)
        return hidden_states, embeddings

    def _assemblers(self, sent: llm_pb2.HiddenStates) -> list[TensorAssembler]:
        """One per tensor. Both headers are checked before memory is taken for either."""
        shape = self._input.shape
        tensors = {"hidden_states": sent.hidden_states, "embeddings": sent.embeddings}
        for name, header in tensors.items():
            if header.dtype not in (tensor_pb2.D_TYPE_F32, tensor_pb2.D_TYPE_F16, tensor_pb2.D_TYPE_BF16):
                raise InvalidArgument(f"conditioning.{name}.dtype is {header.dtype}, must be f32, f16 or bf16")
            if tuple(header.shape) != shape:
                raise InvalidArgument(f"conditioning.{name}.shape is {tuple(header.shape)}, must be {shape}")
        max_bytes = 4 * int(np.prod(shape))
        return [TensorAssembler(h, max_bytes, field=f"conditioning.{name}") for name, h in tensors.items()]


def _finite(assembler: TensorAssembler) -> NDArray[np.float32]:
    values = assembler.array().astype(np.float32)
    if not np.isfinite(values).all():
        raise InvalidArgument("start.conditioning holds NaN or infinity, must be finite")
    return values


def _response(event: Event, seed: int, timing: Timing) -> pb.DecodeResponse:
    match event:
        case Progress():
            return pb.DecodeResponse(progress=pb.Progress(step=event.step, num_steps=event.num_steps))
        case Preview():
            return pb.DecodeResponse(preview=pb.Preview(image=event.png, step=event.step))
        case Picture():
            image = pb.DecodedImage(
                image=event.png,
                width=event.width,
                height=event.height,
                seed=seed,
                queued_ms=timing.queued_ms,
                running_ms=timing.running_ms,
            )
            return pb.DecodeResponse(image=image)
