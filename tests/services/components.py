"""Component services in this process, on a free port, over the tiny random checkpoint."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc

from services.decoder.config import DecoderConfig
from services.decoder.engine import DecoderEngine
from services.decoder.process import assemble as assemble_decoder
from services.encoder.config import EncoderConfig
from services.encoder.engine import EncoderEngine
from services.encoder.process import assemble as assemble_encoder
from services.llm.config import LlmConfig
from services.llm.engine import LlmEngine
from services.llm.process import assemble as assemble_llm
from triptych.serving.channels import open_channel
from triptych.serving.component import ComponentProcess, Engine
from triptych.v1 import decoder_pb2_grpc, encoder_pb2_grpc, llm_pb2_grpc

ROOT = Path(__file__).parents[2]
MAX_BYTES = 64 * 2**20
E = TypeVar("E", bound=Engine)
T = TypeVar("T")


@asynccontextmanager
async def _listening(process: ComponentProcess, engine: Engine) -> AsyncIterator[grpc.aio.Channel]:
    server = await process.start()
    async with open_channel(server.address, MAX_BYTES) as channel:
        yield channel
    await server.drain(0)
    await engine.stop()


@asynccontextmanager
async def encoder(checkpoint: Path, **settings: Any) -> AsyncIterator[tuple[Any, EncoderEngine, grpc.aio.Channel]]:
    config = EncoderConfig(checkpoint=checkpoint / "encoder", device="cpu", **settings)
    process, engine = assemble_encoder(config, "replica")
    async with _listening(process, engine) as channel:
        yield encoder_pb2_grpc.EncoderServiceStub(channel), engine, channel


@asynccontextmanager
async def llm(checkpoint: Path, **settings: Any) -> AsyncIterator[tuple[Any, LlmEngine, grpc.aio.Channel]]:
    config = LlmConfig(checkpoint=checkpoint / "llm", device="cpu", **settings)
    process, engine = assemble_llm(config, "replica")
    async with _listening(process, engine) as channel:
        yield llm_pb2_grpc.LlmServiceStub(channel), engine, channel


@asynccontextmanager
async def decoder(checkpoint: Path, **settings: Any) -> AsyncIterator[tuple[Any, DecoderEngine, grpc.aio.Channel]]:
    config = DecoderConfig(checkpoint=checkpoint / "decoder", device="cpu", **settings)
    process, engine = assemble_decoder(config, "replica")
    async with _listening(process, engine) as channel:
        yield decoder_pb2_grpc.DecoderServiceStub(channel), engine, channel


class Exchange:
    """A call whose request stream stays open, as the orchestrator keeps it."""

    def __init__(self, method: Any, requests: Iterable[Any], timeout: float = 60) -> None:
        self._half_close = asyncio.Event()
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        for request in requests:
            self.requests.put_nowait(request)
        self.call = method(self._stream(), timeout=timeout)

    def half_close(self) -> None:
        self.requests.put_nowait(None)

    async def _stream(self) -> AsyncIterator[Any]:
        while (request := await self.requests.get()) is not None:
            yield request

    async def all(self) -> list[Any]:
        """Every response, to the end of the call."""
        return [response async for response in self.call]


async def refused(answers: Awaitable[Any]) -> tuple[str, str]:
    """Name of the status code, and the message."""
    try:
        await answers
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    raise AssertionError("the call went well")


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not happen within 5 s")


def run_service(service: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """`python -m services.<service>` to its end; what a process that must not serve does."""
    return subprocess.run(
        [sys.executable, "-m", f"services.{service}", *flags],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
