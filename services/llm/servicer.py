"""LlmService: messages to prompt and parameters, checked against the card; the engine's events back to messages."""

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Final, NoReturn, cast

import grpc
import numpy as np

from services.llm.config import LlmConfig
from services.llm.engine import LlmEngine
from services.llm.events import Event, Finish, HiddenStates, ImageEnd, ImageStart, TextDelta
from services.llm.runner import Embeddings, Piece, TokenIds
from services.llm.sampling import SamplingParams
from services.llm.sequence import ImagePolicy
from triptych import traces
from triptych.card import Card
from triptych.errors import Cancelled, FailedPrecondition, InvalidArgument, Unimplemented
from triptych.prompts import Special, Text
from triptych.serving.batching import Timing
from triptych.serving.watching import while_open
from triptych.tensors import DTypeName, TensorAssembler, to_messages
from triptych.v1 import llm_pb2 as pb
from triptych.v1 import llm_pb2_grpc, tensor_pb2

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["LlmService"].full_name
POLICIES: Final[dict[int, ImagePolicy]] = {
    pb.IMAGE_POLICY_UNSPECIFIED: "allow",
    pb.IMAGE_POLICY_ALLOW: "allow",
    pb.IMAGE_POLICY_FORBID: "forbid",
    pb.IMAGE_POLICY_FORCE: "force",
}

Requests = AsyncIterator[pb.GenerateRequest]


class LlmServicer(llm_pb2_grpc.LlmServiceServicer):
    """Called by the orchestrator. Raises CheckpointError when the card lacks what callers must know."""

    def __init__(self, engine: LlmEngine, card: Card, config: LlmConfig) -> None:
        self._engine = engine
        self._card = card
        self._config = config
        self._input, self._output = card.input("embeddings"), card.output("hidden_states")
        self._dtype = cast(DTypeName, self._output.dtype or "f32")
        self._special_tokens = card.fact("special_tokens", list)
        self._hidden_size = card.fact("hidden_size", int)
        self._max_model_len = card.fact("max_model_len", int)
        self._default_max_tokens = card.fact("default_max_tokens", int)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers with `server`; its name is SERVICE_NAME."""
        llm_pb2_grpc.add_LlmServiceServicer_to_server(self, server)

    async def Generate(self, request_iterator: Requests, context: object) -> AsyncIterator[pb.GenerateResponse]:
        message = await anext(request_iterator, None)
        if message is None or not message.HasField("prompt"):
            raise InvalidArgument("the first message must be a prompt")
        prompt = message.prompt
        sampling = self._sampling(prompt.sampling)
        max_images = self._max_images(prompt.max_images)
        policy = _policy(prompt.image_policy)
        if policy == "force" and max_images == 0:
            raise InvalidArgument(self._no_image_to_force())
        pieces = await self._pieces(prompt, request_iterator)
        timing = Timing()
        events = self._engine.generate(pieces, policy, sampling, max_images, timing)
        async with aclosing(while_open(events, self._watch(request_iterator))) as answered:
            async for event in answered:
                for response in self._responses(event, timing):
                    yield response

    async def _watch(self, requests: Requests) -> NoReturn:
        """The client has nothing more to say: whatever it sends ends the call, and so does its silence."""
        async for message in requests:
            if message.HasField("image_embeddings"):
                handover = self._card.facts.get("handover")
                raise Unimplemented(f"{self._card.label} hands over {handover}: it runs no image_embeddings")
            kind = message.WhichOneof("message")
            raise InvalidArgument(f"a {kind or 'nameless'} message came after the prompt, nothing was asked for")
        raise Cancelled("the client closed its side before the reply was complete")

    async def _pieces(self, prompt: pb.Prompt, requests: Requests) -> list[Piece]:
        if not prompt.segments:
            raise InvalidArgument("prompt.segments is empty, must hold at least one segment")
        assemblers = self._assemblers(prompt)
        with traces.span("receive", tensors=len(assemblers), bytes=sum(a.num_bytes for a in assemblers.values())):
            return await self._read(prompt, assemblers, requests)

    async def _read(self, prompt: pb.Prompt, assemblers: dict[int, TensorAssembler], requests: Requests) -> list[Piece]:
        pieces: list[Piece] = []
        for index, segment in enumerate(prompt.segments):
            field = f"prompt.segments[{index}]"
            match segment.WhichOneof("content"):
                case "text":
                    pieces.append(Text(segment.text))
                case "special_token":
                    pieces.append(Special(self._special_token(segment.special_token, field)))
                case "token_ids":
                    pieces.append(TokenIds(self._token_ids(segment.token_ids, field)))
                case "embeddings":
                    pieces.append(await _embeddings(assemblers[index], requests, f"{field}.embeddings"))
                case _:
                    raise InvalidArgument(f"{field} is empty, must be text, special_token, token_ids or embeddings")
        return pieces

    def _assemblers(self, prompt: pb.Prompt) -> dict[int, TensorAssembler]:
        """One per embeddings segment. All headers are checked before memory is taken for any of them."""
        headers = {i: s.embeddings for i, s in enumerate(prompt.segments) if s.HasField("embeddings")}
        if headers:
            self._check_space(prompt.embeddings_space)
        num_rows = 0
        for index, header in headers.items():
            field, shape = f"prompt.segments[{index}].embeddings", tuple(header.shape)
            if header.dtype not in (tensor_pb2.D_TYPE_F32, tensor_pb2.D_TYPE_F16, tensor_pb2.D_TYPE_BF16):
                raise InvalidArgument(f"{field}.dtype is {header.dtype}, must be f32, f16 or bf16")
            if len(shape) != 2 or shape[1] != self._hidden_size:
                raise InvalidArgument(f"{field}.shape is {shape}, must be (num_tokens, {self._hidden_size})")
            num_rows += shape[0]
            if not 1 <= num_rows <= self._max_model_len:
                raise InvalidArgument(
                    f"{field}.shape is {shape}: with those before {num_rows} tokens, must be 1 to {self._max_model_len}"
                )
        max_bytes = self._max_model_len * self._hidden_size * 4
        return {
            index: TensorAssembler(header, max_bytes, field=f"prompt.segments[{index}].embeddings")
            for index, header in headers.items()
        }

    def _check_space(self, space: str) -> None:
        if space != self._input.space and space not in self._input.accepts:
            known = ", ".join(repr(known) for known in (self._input.space, *self._input.accepts))
            raise FailedPrecondition(f"embeddings_space is {space!r}, {self._card.label} understands {known}")

    def _token_ids(self, message: pb.TokenIds, field: str) -> tuple[int, ...]:
        """Counted before they are looked at, one by one, on the event loop."""
        num_ids = len(message.ids)
        if num_ids > self._max_model_len:
            raise InvalidArgument(f"{field}.token_ids has {num_ids} ids, must be at most {self._max_model_len}")
        return tuple(message.ids)

    def _special_token(self, token: str, field: str) -> str:
        if token not in self._special_tokens:
            raise InvalidArgument(f"{field}.special_token is {token!r}, must be one of {self._special_tokens}")
        return token

    def _sampling(self, message: pb.SamplingParams) -> SamplingParams:
        return SamplingParams(
            max_tokens=message.max_tokens if message.HasField("max_tokens") else self._default_max_tokens,
            temperature=message.temperature,
            top_k=message.top_k,
            top_p=message.top_p if message.HasField("top_p") else 1.0,
            seed=message.seed if message.HasField("seed") else secrets.randbits(63),
            stop=tuple(message.stop),
        )

    def _max_images(self, max_images: int) -> int:
        bound = self._config.max_images_per_request
        if not 0 <= max_images <= bound:
            raise InvalidArgument(f"max_images is {max_images}, must be 0 to {bound}")
        return max_images or min(self._config.default_max_images, bound)

    def _no_image_to_force(self) -> str:
        bound = self._config.max_images_per_request
        if bound == 0:
            return "image_policy is FORCE, but this server draws no images"
        return f"image_policy is FORCE, but max_images is not set and 0 by default here, must be 1 to {bound}"

    def _responses(self, event: Event, timing: Timing) -> Iterator[pb.GenerateResponse]:
        match event:
            case TextDelta():
                yield pb.GenerateResponse(text=pb.TextDelta(text=event.text, token_ids=event.token_ids))
            case ImageStart():
                yield pb.GenerateResponse(image_start=pb.ImageStart(image_index=event.index))
            case HiddenStates():
                yield from self._hidden_states(event)
            case ImageEnd():
                yield pb.GenerateResponse(image_end=pb.ImageEnd(image_index=event.index))
            case Finish():
                yield pb.GenerateResponse(finish=_finish(event, timing))

    def _hidden_states(self, event: HiddenStates) -> Iterator[pb.GenerateResponse]:
        hidden, hidden_chunks = to_messages(event.hidden_states, self._dtype)
        embeddings, embeddings_chunks = to_messages(event.embeddings, self._dtype)
        header = pb.HiddenStates(
            image_index=event.index, hidden_states=hidden, embeddings=embeddings, space=self._output.space
        )
        yield pb.GenerateResponse(hidden_states=header)
        for chunk in (*hidden_chunks, *embeddings_chunks):
            yield pb.GenerateResponse(chunk=chunk)


def _finish(event: Finish, timing: Timing) -> pb.Finish:
    usage = pb.Usage(
        num_prompt_tokens=event.num_prompt_tokens,
        num_generated_tokens=len(event.token_ids),
        num_images=event.num_images,
    )
    return pb.Finish(
        reason=event.reason,
        usage=usage,
        queued_ms=timing.queued_ms,
        running_ms=timing.running_ms,
        token_ids=event.token_ids,
    )


def _policy(value: int) -> ImagePolicy:
    if value not in POLICIES:
        raise InvalidArgument(f"image_policy is {value}, must be one of {sorted(POLICIES)}")
    return POLICIES[value]


async def _embeddings(assembler: TensorAssembler, requests: Requests, field: str) -> Embeddings:
    """Reads the chunks that the header announced."""
    while not assembler.complete:
        message = await anext(requests, None)
        if message is None or not message.HasField("chunk"):
            raise InvalidArgument(f"{field} announced more chunks than followed it")
        assembler.add(message.chunk)
    values = assembler.array().astype(np.float32)
    if not np.isfinite(values).all():
        raise InvalidArgument(f"{field} holds NaN or infinity, must be finite")
    return Embeddings(values)
