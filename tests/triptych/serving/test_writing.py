"""Callers who stop reading, or are gone without a word: their calls end all the same."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from tests.triptych.serving.harness import MAX_BYTES, Llm, serving
from tests.triptych.serving.test_interceptors import lines, prompts
from triptych.serving import options, writing
from triptych.serving.channels import open_channel
from triptych.serving.metrics import Metrics
from triptych.v1 import llm_pb2_grpc


async def flood(requests: Any) -> AsyncIterator[str]:
    """More than a connection holds."""
    for _ in range(1000):
        yield "x" * 100_000


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def num_running(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("triptych_llm_calls_running") or 0.0


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_caller_who_stops_reading_is_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(writing, "STATUS_S", 0.2)
    llm, metrics = Llm(flood), Metrics("llm")
    async with serving(llm, metrics=metrics, write_timeout_s=0.3) as (_, channel):
        call = llm_pb2_grpc.LlmServiceStub(channel).Generate(prompts("a"))
        await anext(aiter(call))
        await asyncio.wait_for(llm.closed.wait(), 5)
        await until(lambda: num_running(metrics) == 0)  # although the status cannot be sent yet
        assert [record.status for record in lines(caplog)] == ["CANCELLED"]
        with pytest.raises(grpc.aio.AioRpcError, match=r"left a message unread for 0\.3 s") as caught:
            async for _ in call:
                pass
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    assert errors(caplog) == []


async def test_a_caller_who_reads_slowly_gets_everything() -> None:
    async def some(requests: Any) -> AsyncIterator[str]:
        for _ in range(100):
            yield "x" * 100_000

    async with serving(Llm(some), write_timeout_s=1) as (_, channel):
        call = llm_pb2_grpc.LlmServiceStub(channel).Generate(prompts("a"))
        received = 0
        async for _ in call:
            received += 1
            await asyncio.sleep(0.02)
    assert received == 100


async def test_what_cannot_be_written_is_no_bug_of_ours(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    llm, metrics = Llm(flood), Metrics("llm")
    async with serving(llm, metrics=metrics) as (server, _):
        own = open_channel(server.address, MAX_BYTES)
        call = llm_pb2_grpc.LlmServiceStub(own).Generate(prompts("a"))
        await anext(aiter(call))
        await asyncio.sleep(0.3)  # the handler now waits for the caller to read
        await own.close()
        await asyncio.wait_for(llm.closed.wait(), 5)
        await until(lambda: num_running(metrics) == 0)
    assert [record.status for record in lines(caplog)] == ["CANCELLED"]
    assert errors(caplog) == []


async def test_a_connection_that_is_lost_without_a_word_ends_its_calls(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(requests: Any) -> AsyncIterator[str]:
        yield "one"
        await asyncio.sleep(60)

    llm = Llm(silent)
    monkeypatch.setattr(options, "KEEPALIVE_S", 0.2)
    monkeypatch.setattr(options, "KEEPALIVE_TIMEOUT_S", 0.3)
    async with serving(llm) as (server, _):
        monkeypatch.undo()  # the caller's own end keeps quiet meanwhile
        async with Relay(server.address) as relay:
            own = open_channel(relay.address, MAX_BYTES)
            call = llm_pb2_grpc.LlmServiceStub(own).Generate(prompts("a"))
            await anext(aiter(call))
            await asyncio.sleep(1)
            assert not llm.closed.is_set(), "a connection in order stays"
            relay.is_cut = True
            await asyncio.wait_for(llm.closed.wait(), 5)
            await own.close()


class Relay:
    """Hands bytes on between a caller and a server, until it is cut: then both ends stay open and hear nothing."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.is_cut = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Relay":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target.rsplit(":", 1)
        there, back = await asyncio.open_connection(host, int(port))
        self._tasks += [asyncio.create_task(self._hand_on(*pair)) for pair in ((reader, back), (there, writer))]

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.is_cut:
                writer.write(data)
        writer.close()
