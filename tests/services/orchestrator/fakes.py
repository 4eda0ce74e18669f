"""Small components that speak the real protos, each a real server in this process."""

import asyncio
import io
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from PIL import Image

from tests.services.orchestrator.cards import HIDDEN_SIZE, NUM_IMG_TOKENS, decoder_card, encoder_card, llm_card, picture
from triptych.card import Card
from triptych.serving.batching import Load
from triptych.serving.describe import ComponentServicer, new_replica_id
from triptych.tensors import TensorAssembler, to_messages
from triptych.v1 import (
    component_pb2_grpc,
    decoder_pb2,
    decoder_pb2_grpc,
    encoder_pb2,
    encoder_pb2_grpc,
    llm_pb2,
    llm_pb2_grpc,
    orchestrator_pb2,
)


class _Described(ComponentServicer):
    """Answers nothing while its component hangs, or has no time for polls."""

    component: "FakeComponent"

    async def Describe(self, request: Any, context: Any) -> Any:
        await self.component.awake.wait()
        if self.component.ignores_polls:
            await asyncio.Event().wait()
        return await super().Describe(request, context)


class FakeComponent(ABC):
    """A listening replica. `hold` stops every call until set; `errors` are raised first, one per call. While `awake` is
    not set it says nothing at all."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.port = 0
        self.num_calls = 0
        self.num_running = 0
        self.reached = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.hold: asyncio.Event | None = None
        self.errors: list[tuple[grpc.StatusCode, str]] = []
        self.retry_after_ms = 0  # sent with errors
        self.request_ids: list[str] = []
        self.traceparents: list[str] = []
        self.health = health.aio.HealthServicer()
        self.awake = asyncio.Event()
        self.awake.set()
        self.ignores_polls = False
        self.server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        described = _Described(
            self.card, lambda: Load(self.num_running, 0, 8), new_replica_id(), "fake", "cpu", "f32", 1.0
        )
        described.component = self
        component_pb2_grpc.add_ComponentServiceServicer_to_server(described, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        self.register(server)
        self.port = server.add_insecure_port(self.address)
        await server.start()
        await self.set_serving(True)
        self.server = server

    async def set_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self.health.set("", status.SERVING if serving else status.NOT_SERVING)

    async def stop(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            await server.stop(0)

    async def die(self) -> None:
        """From inside a call: the server goes, and the call with it."""
        self._dying = asyncio.create_task(self.stop())
        await asyncio.Event().wait()

    @abstractmethod
    def register(self, server: grpc.aio.Server) -> None: ...

    @asynccontextmanager
    async def call(self, context: Any) -> AsyncIterator[None]:
        self.num_calls += 1
        self.num_running += 1
        metadata = dict(context.invocation_metadata())
        self.request_ids.append(metadata.get("x-request-id", ""))
        self.traceparents += [value for key, value in metadata.items() if key == "traceparent"]
        self.reached.set()
        try:
            if self.errors:
                hint = (("retry-after-ms", str(self.retry_after_ms)),) if self.retry_after_ms else ()
                await context.abort(*self.errors.pop(0), hint)
            if self.hold is not None:
                await self.hold.wait()
            await self.awake.wait()
            yield
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.num_running -= 1


class FakeEncoder(FakeComponent, encoder_pb2_grpc.EncoderServiceServicer):
    """Embeds a picture as its mean colour."""

    def __init__(self, card: Card | None = None) -> None:
        super().__init__(card or encoder_card())
        self.images: list[bytes] = []
        self.num_tokens = 3

    def register(self, server: grpc.aio.Server) -> None:
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(self, server)

    async def Encode(self, request: Any, context: Any) -> AsyncIterator[encoder_pb2.EncodeResponse]:
        async with self.call(context):
            self.images += request.images
            for index, data in enumerate(request.images):
                mean = float(np.asarray(Image.open(io.BytesIO(data))).mean())
                header, chunks = to_messages(np.full((self.num_tokens, HIDDEN_SIZE), mean, np.float32))
                embedding = encoder_pb2.ImageEmbedding(image_index=index, embeddings=header)
                yield encoder_pb2.EncodeResponse(embedding=embedding)
                for chunk in chunks:
                    yield encoder_pb2.EncodeResponse(chunk=chunk)
            space = self.card.outputs[0].space
            yield encoder_pb2.EncodeResponse(done=encoder_pb2.EncodeDone(queued_ms=1, running_ms=2, space=space))


Script = Callable[["FakeLlm"], AsyncIterator[llm_pb2.GenerateResponse]]


def text(value: str) -> llm_pb2.GenerateResponse:
    return llm_pb2.GenerateResponse(text=llm_pb2.TextDelta(text=value))


class FakeLlm(FakeComponent, llm_pb2_grpc.LlmServiceServicer):
    """Says and draws what its image policy asks for, or what `script` says."""

    def __init__(self, card: Card | None = None) -> None:
        super().__init__(card or llm_card())
        self.prompts: list[llm_pb2.Prompt] = []
        self.embeddings: list[np.ndarray] = []
        self.script: Script = FakeLlm.by_policy
        self.img_width = HIDDEN_SIZE
        self.half_closed = False

    def register(self, server: grpc.aio.Server) -> None:
        llm_pb2_grpc.add_LlmServiceServicer_to_server(self, server)

    async def Generate(self, requests: Any, context: Any) -> AsyncIterator[llm_pb2.GenerateResponse]:
        async with self.call(context):
            prompt = (await anext(requests)).prompt
            self.prompts.append(prompt)
            for segment in prompt.segments:
                if segment.HasField("embeddings"):
                    assembler = TensorAssembler(segment.embeddings, 2**30)
                    while not assembler.complete:
                        assembler.add((await anext(requests)).chunk)
                    self.embeddings.append(assembler.array())
            waiting = asyncio.ensure_future(anext(requests, None))
            await asyncio.sleep(0.01)
            self.half_closed |= waiting.done()
            waiting.cancel()
            async for response in self.script(self):
                await self.awake.wait()
                yield response
            usage = llm_pb2.Usage(num_prompt_tokens=len(prompt.segments), num_generated_tokens=5, num_images=1)
            yield llm_pb2.GenerateResponse(finish=llm_pb2.Finish(reason="stop", usage=usage, queued_ms=3, running_ms=4))

    async def by_policy(self) -> AsyncIterator[llm_pb2.GenerateResponse]:
        policy = self.prompts[-1].image_policy
        if policy != llm_pb2.IMAGE_POLICY_FORCE:
            yield text("a red ")
            yield text("circle")
        if policy != llm_pb2.IMAGE_POLICY_FORBID:
            async for response in self.image(0):
                yield response
            yield text("done")

    async def image(self, index: int) -> AsyncIterator[llm_pb2.GenerateResponse]:
        yield llm_pb2.GenerateResponse(image_start=llm_pb2.ImageStart(image_index=index))
        array = np.arange(NUM_IMG_TOKENS * self.img_width, dtype=np.float32).reshape(NUM_IMG_TOKENS, -1)
        hidden, hidden_chunks = to_messages(array)
        embeddings, embedding_chunks = to_messages(-array)
        space = self.card.outputs[0].space
        states = llm_pb2.HiddenStates(image_index=index, hidden_states=hidden, embeddings=embeddings, space=space)
        yield llm_pb2.GenerateResponse(hidden_states=states)
        for chunk in (*hidden_chunks, *embedding_chunks):
            yield llm_pb2.GenerateResponse(chunk=chunk)
        yield llm_pb2.GenerateResponse(image_end=llm_pb2.ImageEnd(image_index=index))


class FakeDecoder(FakeComponent, decoder_pb2_grpc.DecoderServiceServicer):
    """Paints one colour per seed. Dies for good after `dies_after` steps."""

    def __init__(self, card: Card | None = None) -> None:
        super().__init__(card or decoder_card())
        self.starts: list[decoder_pb2.Start] = []
        self.arrays: list[np.ndarray] = []
        self.dies_after = 0

    def register(self, server: grpc.aio.Server) -> None:
        decoder_pb2_grpc.add_DecoderServiceServicer_to_server(self, server)

    async def Decode(self, requests: Any, context: Any) -> AsyncIterator[decoder_pb2.DecodeResponse]:
        async with self.call(context):
            start = (await anext(requests)).start
            self.starts.append(start)
            for header in (start.conditioning.hidden_states, start.conditioning.embeddings):
                assembler = TensorAssembler(header, 2**30)
                while not assembler.complete:
                    assembler.add((await anext(requests)).chunk)
                self.arrays.append(assembler.array())
            steps = start.params.num_inference_steps or 2
            for step in range(1, steps + 1):
                if step == self.dies_after + 1 > 1:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
                await self.awake.wait()
                yield decoder_pb2.DecodeResponse(progress=decoder_pb2.Progress(step=step, num_steps=steps))
                if start.params.preview_interval and step % start.params.preview_interval == 0:
                    yield decoder_pb2.DecodeResponse(preview=decoder_pb2.Preview(image=picture("gray"), step=step))
            painted = Image.new("RGB", (8, 8), (start.params.seed % 256, 0, 0))
            data = io.BytesIO()
            painted.save(data, "PNG")
            image = decoder_pb2.DecodedImage(
                image=data.getvalue(), width=8, height=8, seed=start.params.seed, queued_ms=5, running_ms=6
            )
            yield decoder_pb2.DecodeResponse(image=image)


def kinds(responses: list[orchestrator_pb2.RespondResponse]) -> list[str]:
    return [str(response.WhichOneof("event")) for response in responses]


async def drain(call: Any) -> None:
    async for _ in call:
        pass


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)
