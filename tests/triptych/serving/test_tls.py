"""Real handshakes: who gets in, and what happens when certificates change while the server runs."""

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.triptych.serving.harness import Llm, TestConfig, serving
from triptych.access import Access
from triptych.certificates import Authority
from triptych.errors import Unavailable
from triptych.health import check_health
from triptych.serving.channels import open_channel
from triptych.serving.link import Link
from triptych.serving.server import CannotListen, GrpcServer
from triptych.tls import Certificates, TlsFiles
from triptych.v1 import llm_pb2, llm_pb2_grpc

NAMES = ["localhost", "127.0.0.1"]


async def one(_: Any) -> Any:
    yield "one"


async def generate(channel: grpc.aio.Channel) -> list[str]:
    call = llm_pb2_grpc.LlmServiceStub(channel).Generate(iter([llm_pb2.GenerateRequest()]), timeout=10)
    return [response.text.text async for response in call]


async def outcome(address: str, folder: Path | None, *, shows: bool = True, server_name: str = "") -> str:
    """OK, or the status of a caller who has the certificates in `folder`."""
    files = TlsFiles.in_folder(folder) if folder else None
    if files and not shows:
        files = TlsFiles(ca=files.ca)
    pem = Certificates(files).current() if files else None
    async with open_channel(address, 2**20, pem, server_name) as channel:
        try:
            assert await generate(channel) == ["one"]
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


async def test_only_certificates_of_the_authority_get_in(tmp_path: Path) -> None:
    authority = Authority()
    mine = authority.issue(tmp_path / "mine", NAMES)
    friend = authority.issue(tmp_path / "friend", ["someone"])
    stranger = Authority().issue(tmp_path / "stranger", NAMES)
    async with serving(Llm(one), tls_dir=mine) as (server, _):
        assert await outcome(server.address, friend) == "OK"
        assert await outcome(server.address, stranger) == "UNAVAILABLE"
        assert await outcome(server.address, friend, shows=False) == "UNAVAILABLE"
        assert await outcome(server.address, None) == "UNAVAILABLE"


async def test_a_server_for_another_name_is_not_believed(tmp_path: Path) -> None:
    authority = Authority()
    encoder = authority.issue(tmp_path / "encoder", ["encoder.example"])
    async with serving(Llm(one), tls_dir=encoder) as (server, _):
        assert await outcome(server.address, encoder) == "UNAVAILABLE"
        assert await outcome(server.address, encoder, server_name="llm.example") == "UNAVAILABLE"
        assert await outcome(server.address, encoder, server_name="encoder.example") == "OK"


async def test_callers_without_certificate_where_told(tmp_path: Path) -> None:
    mine = Authority().issue(tmp_path / "mine", NAMES)
    async with serving(Llm(one), tls_dir=mine, tls_require_client_cert=False) as (server, _):
        assert await outcome(server.address, mine, shows=False) == "OK"
        assert await outcome(server.address, None) == "UNAVAILABLE"


async def test_probes_need_no_certificate_and_get_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A kubelet's gRPC probe knows no TLS: health has a port of its own."""
    caplog.set_level("INFO")
    mine = Authority().issue(tmp_path / "mine", NAMES)
    async with serving(Llm(one), ready=False, tls_dir=mine, health_port=0) as (server, _):
        address = next(record.address for record in caplog.records if record.getMessage() == "health")  # type: ignore[attr-defined]
        with pytest.raises(Unavailable, match="is not serving"):
            await asyncio.to_thread(check_health, address, Access())
        await server.set_ready()
        assert await asyncio.to_thread(check_health, address, Access(), "triptych.v1.LlmService") == "serving"
        assert await outcome(address, None) == "UNIMPLEMENTED"
        await server.drain(0)
        with pytest.raises(Unavailable):
            await asyncio.to_thread(check_health, address, Access())


async def test_server_takes_up_new_certificates_while_it_runs(tmp_path: Path) -> None:
    """New connections are judged by the new authority; a call under way goes on."""
    old, new = Authority(), Authority()
    mine = old.issue(tmp_path / "mine", NAMES)
    before, after = old.issue(tmp_path / "before", ["a"]), new.issue(tmp_path / "after", ["a"])
    go_on = asyncio.Event()

    async def two(requests: Any) -> Any:
        yield "one"
        await go_on.wait()
        yield "two"

    async with serving(Llm(two), tls_dir=mine) as (server, _):
        async with open_channel(server.address, 2**20, Certificates(TlsFiles.in_folder(before)).current()) as channel:
            call = llm_pb2_grpc.LlmServiceStub(channel).Generate(iter([llm_pb2.GenerateRequest()]), timeout=10)
            assert (await call.read()).text.text == "one"
            new.issue(mine, NAMES)
            assert await outcome(server.address, before) == "UNAVAILABLE"
            go_on.set()
            assert (await call.read()).text.text == "two"
        pem = Certificates(TlsFiles.in_folder(after)).current()
        async with open_channel(server.address, 2**20, pem) as channel:
            assert await generate(channel) == ["one", "two"]


async def test_link_takes_up_new_certificates(tmp_path: Path) -> None:
    """Both ends rotate to another authority, and the caller never restarts."""
    mine = Authority().issue(tmp_path / "mine", NAMES)
    async with serving(Llm(one), tls_dir=mine) as (server, _):
        link = Link(server.address, 2**20, Certificates(TlsFiles.in_folder(mine)), "localhost")
        first = link.channel
        assert await generate(link.channel) == ["one"]
        link.renew()
        assert link.channel is first
        Authority().issue(mine, NAMES)
        link.renew()
        assert link.channel is not first
        assert await generate(link.channel) == ["one"]
        await link.close()


async def test_link_lets_a_running_call_end(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def two(requests: Any) -> Any:
        yield "one"
        await go_on.wait()
        yield "two"

    mine = Authority().issue(tmp_path / "mine", NAMES)
    async with serving(Llm(two), tls_dir=mine) as (server, _):
        link = Link(server.address, 2**20, Certificates(TlsFiles.in_folder(mine)))
        call = llm_pb2_grpc.LlmServiceStub(link.channel).Generate(iter([llm_pb2.GenerateRequest()]), timeout=10)
        assert (await call.read()).text.text == "one"
        Authority().issue(mine, NAMES)
        link.renew()
        await asyncio.sleep(0.05)
        go_on.set()
        assert (await call.read()).text.text == "two"
        await link.close()


async def test_a_plaintext_flood_does_not_stop_the_server(tmp_path: Path) -> None:
    mine = Authority().issue(tmp_path / "mine", NAMES)
    async with serving(Llm(one), tls_dir=mine) as (server, _):
        host, _, port = server.address.rpartition(":")
        for garbage in (
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\xff\xff" * 100,
        ):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(garbage)
            await writer.drain()
            writer.close()
        started = time.monotonic()
        assert await outcome(server.address, mine) == "OK"
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("missing", ["tls.crt", "tls.key", "ca.crt"])
async def test_bad_files_end_the_start(tmp_path: Path, missing: str) -> None:
    folder = Authority().issue(tmp_path / "tls", NAMES)
    (folder / missing).unlink()
    server = GrpcServer(TestConfig(tls_dir=folder), lambda _: None, [])
    with pytest.raises(CannotListen, match=missing):
        await server.start()
    await server.drain(0)
