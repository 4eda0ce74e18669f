"""A real server on a free port with small servicers whose behaviour the tests choose."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
from pydantic_settings import SettingsConfigDict

from triptych.serving.channels import open_channel
from triptych.serving.config import ServingConfig
from triptych.serving.metrics import Metrics
from triptych.serving.server import GrpcServer
from triptych.v1 import encoder_pb2, encoder_pb2_grpc, llm_pb2, llm_pb2_grpc

MAX_BYTES = 2**20


class TestConfig(ServingConfig):
    """A service called llm."""

    __test__ = False
    model_config = SettingsConfigDict(env_prefix="LLM_")


class Llm(llm_pb2_grpc.LlmServiceServicer):
    """Runs `behavior(request_iterator)` and keeps what became of the last call."""

    def __init__(self, behavior: Callable[[Any], AsyncIterator[str]]) -> None:
        self._behavior = behavior
        self.closed = asyncio.Event()

    async def Generate(self, request_iterator: Any, context: Any) -> AsyncIterator[llm_pb2.GenerateResponse]:
        try:
            async for text in self._behavior(request_iterator):
                yield llm_pb2.GenerateResponse(text=llm_pb2.TextDelta(text=text))
        finally:
            self.closed.set()


class Unwritten(llm_pb2_grpc.LlmServiceServicer):
    """What the generated base class does for a method that nobody wrote."""


class Encoder(encoder_pb2_grpc.EncoderServiceServicer):
    """Answers with as many events as there are images, then raises `error` if any."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    async def Encode(
        self, request: encoder_pb2.EncodeRequest, context: Any
    ) -> AsyncIterator[encoder_pb2.EncodeResponse]:
        for index in range(len(request.images)):
            yield encoder_pb2.EncodeResponse(embedding=encoder_pb2.ImageEmbedding(image_index=index))
        if self._error is not None:
            raise self._error


NAMES = ["triptych.v1.LlmService"]


@asynccontextmanager
async def serving(
    llm: Llm | None = None,
    encoder: Any = None,
    *,
    ready: bool = True,
    metrics: Metrics | None = None,
    write_timeout_s: float | None = None,
    **config: Any,
) -> AsyncIterator[tuple[GrpcServer, grpc.aio.Channel]]:
    """The server and a channel to it."""

    def add(server: grpc.aio.Server) -> None:
        written = llm or Unwritten()  # type: ignore[abstract]
        llm_pb2_grpc.add_LlmServiceServicer_to_server(written, server)
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(encoder or Encoder(), server)

    settings = TestConfig(**({"max_message_bytes": MAX_BYTES} | config))
    server = GrpcServer(settings, add, NAMES, metrics=metrics, replica_id="r1", write_timeout_s=write_timeout_s)
    address = await server.start()
    if ready:
        await server.set_ready()
    async with open_channel(address, MAX_BYTES) as channel:
        yield server, channel
    await server.drain(0)


@contextmanager
def process(code: str, tmp_path: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """`code` in a process of its own, and the address file it was told to write."""
    address_file = tmp_path / "address"
    script = tmp_path / "process.py"
    script.write_text(code)
    command = [sys.executable, str(script), "--address-file", str(address_file), *flags]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    )
    try:
        yield started, address_file
    finally:
        started.kill()
        started.communicate()
