"""The life of a server: not serving, serving, draining, gone. In-process, and as real processes with real signals."""

import asyncio
import signal
import socket
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.triptych.serving.harness import NAMES, Encoder, Llm, TestConfig, process, serving
from tests.triptych.serving.test_interceptors import prompts
from triptych.serving.channels import open_channel
from triptych.serving.server import CannotListen, GrpcServer
from triptych.v1 import encoder_pb2, encoder_pb2_grpc, llm_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def count_to_three(requests: Any) -> AsyncIterator[str]:
    for text in "123":
        yield text
        await asyncio.sleep(0.2)


async def health(channel: grpc.aio.Channel, service: str) -> int:
    return int((await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))).status)


@pytest.mark.parametrize("service", ["", *NAMES])
async def test_health_from_start_to_drain(service: str) -> None:
    async with serving(ready=False) as (server, channel):
        seen: list[int] = []

        async def watch() -> None:
            async for response in health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service=service)
            ):
                seen.append(response.status)

        watching = asyncio.create_task(watch())
        while not seen:
            await asyncio.sleep(0.01)
        assert await health(channel, service) == NOT_SERVING
        await server.set_ready()
        assert await health(channel, service) == SERVING
        while SERVING not in seen:
            await asyncio.sleep(0.01)
        started = time.monotonic()
        await server.drain(30)
        assert time.monotonic() - started < 5, "a health watcher held the drain up"
        await asyncio.wait((watching,))
    assert seen == [NOT_SERVING, SERVING, NOT_SERVING]


async def test_calls_before_ready_are_unavailable() -> None:
    async with serving(Llm(count_to_three), ready=False) as (server, channel):
        stub = llm_pb2_grpc.LlmServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="starting") as caught:
            await anext(aiter(stub.Generate(prompts("a"))))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await server.set_ready()
        assert (await anext(aiter(stub.Generate(prompts("a"))))).text.text == "1"


async def test_reflection_lists_the_services() -> None:
    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async with serving() as (_, channel):
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(ask())
        names = [s.name for response in [await anext(aiter(call))] for s in response.list_services_response.service]
    assert set(NAMES) <= set(names)


async def test_drain_lets_a_running_stream_finish_and_refuses_new_ones() -> None:
    async with serving(Llm(count_to_three)) as (server, channel):
        stub = llm_pb2_grpc.LlmServiceStub(channel)
        call = aiter(stub.Generate(prompts("a")))
        texts = [(await anext(call)).text.text]
        draining = asyncio.create_task(server.drain(10))
        await asyncio.sleep(0.05)
        async with open_channel(server.address, 2**20) as late:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await anext(aiter(llm_pb2_grpc.LlmServiceStub(late).Generate(prompts("b"), timeout=2)))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        texts += [response.text.text async for response in call]
        await draining
    assert texts == ["1", "2", "3"]


async def test_drain_cuts_off_what_takes_too_long() -> None:
    async def forever(requests: Any) -> AsyncIterator[str]:
        yield "1"
        await asyncio.sleep(60)

    llm = Llm(forever)
    async with serving(llm) as (server, channel):
        call = aiter(llm_pb2_grpc.LlmServiceStub(channel).Generate(prompts("a")))
        await anext(call)
        started = time.monotonic()
        await server.drain(0.2)
        assert 0.15 < time.monotonic() - started < 5
        assert llm.closed.is_set()
        with pytest.raises(grpc.aio.AioRpcError, match="stopped before the call ended") as caught:
            await anext(call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_draining_twice_at_a_time() -> None:
    async with serving(Llm(count_to_three)) as (server, channel):
        call = aiter(llm_pb2_grpc.LlmServiceStub(channel).Generate(prompts("a")))
        await anext(call)
        await asyncio.gather(*(server.drain(timeout_s) for timeout_s in (0.1, 0.1, 0)))
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(call)


async def test_a_taken_port_is_an_error_and_never_shared() -> None:
    async with serving() as (server, _):
        port = int(server.address.rsplit(":", 1)[1])
        second = GrpcServer(TestConfig(port=port), lambda _: None, [])
        with pytest.raises(CannotListen, match=f"cannot listen on 127.0.0.1:{port}"):
            await second.start()
        await second.drain(0)


async def test_a_taken_metrics_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = GrpcServer(TestConfig(metrics_port=port), lambda _: None, [])
        with pytest.raises(CannotListen, match=f"metrics on 127.0.0.1:{port}"):
            await server.start()
        await server.drain(0)


async def test_a_taken_health_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = GrpcServer(TestConfig(health_port=port), lambda _: None, [])
        with pytest.raises(CannotListen, match=f"probes on 127.0.0.1:{port}"):
            await server.start()
        await server.drain(0)


async def test_metrics_can_be_scraped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with serving(metrics_port=0, encoder=Encoder()) as (_, channel):
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        assert len([r async for r in stub.Encode(encoder_pb2.EncodeRequest(images=[b"1"]))]) == 1
        address = next(record.address for record in caplog.records if record.getMessage() == "metrics")  # type: ignore[attr-defined]
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{address}/metrics").read().decode())
    assert 'triptych_llm_calls_total{code="OK",method="/triptych.v1.EncoderService/Encode"} 1.0' in page


async def test_the_address_file_comes_and_goes(tmp_path: Path) -> None:
    file = tmp_path / "address"
    async with serving(address_file=file) as (server, channel):
        assert file.read_text() == server.address
        assert await health(channel, "") == SERVING
    assert not file.exists()


async def test_an_address_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    server = GrpcServer(TestConfig(address_file=tmp_path / "missing" / "address"), lambda _: None, [])
    with pytest.raises(CannotListen, match="missing/address: No such file or directory"):
        await server.start()
    await server.drain(0)


async def test_who_cannot_listen_leaves_the_address_file_of_who_does(tmp_path: Path) -> None:
    file = tmp_path / "address"
    async with serving(address_file=file) as (server, _):
        second = GrpcServer(
            TestConfig(port=int(server.address.rpartition(":")[2]), address_file=file), lambda _: None, []
        )
        with pytest.raises(CannotListen):
            await second.start()
        await second.drain(0)
        assert file.read_text() == server.address


PROCESS = """
import asyncio, sys
from triptych.errors import ProbeError
from triptych.serving.config import ServingConfig
from triptych.serving.logs import configure_logs
from triptych.serving.server import run, serve
from triptych.v1 import llm_pb2, llm_pb2_grpc

class Config(ServingConfig):
    model_config = {"env_prefix": "LLM_"}
    probe: str = "passes"

class Llm(llm_pb2_grpc.LlmServiceServicer):
    async def Generate(self, request_iterator, context):
        for text in "123":
            yield llm_pb2.GenerateResponse(text=llm_pb2.TextDelta(text=text))
            await asyncio.sleep(0.3)

async def main(config):
    async def on_ready():
        if config.probe == "fails":
            raise ProbeError("llm tiny 1.0.0: probe 'a' reaches cosine 0.5, must be at least 0.999")
        if config.probe == "hangs":
            await asyncio.sleep(60)
    async def on_stop():
        print("on_stop", flush=True)
    configure_logs(config)
    add = lambda server: llm_pb2_grpc.add_LlmServiceServicer_to_server(Llm(), server)
    return await serve(config, add, ["triptych.v1.LlmService"], on_ready=on_ready, on_stop=on_stop)

if __name__ == "__main__":
    config = Config.from_args(sys.argv[1:])
    sys.exit(run(main(config), config))
"""


async def wait_for(file: Path) -> str:
    async with asyncio.timeout(20):
        while not file.exists():
            await asyncio.sleep(0.02)
    return file.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_exits_0(number: signal.Signals, tmp_path: Path) -> None:
    with process(PROCESS, tmp_path) as (started, file):
        async with open_channel(await wait_for(file), 2**20) as channel:
            call = aiter(llm_pb2_grpc.LlmServiceStub(channel).Generate(prompts("a"), wait_for_ready=True))
            texts = [(await anext(call)).text.text]
            started.send_signal(number)
            texts += [response.text.text async for response in call]
        out, err = await asyncio.to_thread(started.communicate, timeout=10)
    assert texts == ["1", "2", "3"]
    assert (started.returncode, out) == (0, "on_stop\n"), err
    assert not file.exists()


async def test_a_failing_probe_exits_1_with_one_line(tmp_path: Path) -> None:
    with process(PROCESS, tmp_path, "--probe", "fails", "--log-level", "error") as (started, file):
        out, err = await asyncio.to_thread(started.communicate, timeout=20)
    assert (started.returncode, out) == (1, "on_stop\n")
    assert err == "llm: llm tiny 1.0.0: probe 'a' reaches cosine 0.5, must be at least 0.999\n"
    assert not file.exists()


async def test_a_signal_while_the_model_loads_exits_0(tmp_path: Path) -> None:
    with process(PROCESS, tmp_path, "--probe", "hangs") as (started, file):
        await wait_for(file)
        await asyncio.sleep(0.2)
        started.send_signal(signal.SIGTERM)
        out, err = await asyncio.to_thread(started.communicate, timeout=10)
    assert (started.returncode, out) == (0, "on_stop\n"), err


async def test_a_taken_port_exits_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with process(PROCESS, tmp_path, "--port", port, "--log-level", "error") as (started, _):
            out, err = await asyncio.to_thread(started.communicate, timeout=20)
    assert (started.returncode, out) == (2, "on_stop\n")
    assert f"llm: cannot listen on 127.0.0.1:{port}" in err
    assert "Traceback" not in err
