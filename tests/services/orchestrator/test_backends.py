import asyncio
import socket
from pathlib import Path

import grpc
import pytest

from services.orchestrator.attempts import MAX_ATTEMPTS
from services.orchestrator.backends import Backends
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.discovery.names import Names, resolve
from tests.services.orchestrator.cards import encoder_card, llm_card, picture
from tests.services.orchestrator.fakes import FakeDecoder, FakeEncoder, FakeLlm, until
from tests.services.orchestrator.system import System
from triptych.certificates import Authority
from triptych.errors import Unavailable
from triptych.serving.server import GrpcServer
from triptych.tls import TlsFiles
from triptych.v1 import component_pb2
from triptych.v1 import orchestrator_pb2 as pb


@pytest.mark.parametrize("stage", ["encoder", "llm", "decoder"])
async def test_service_missing_at_start_then_recovery(system: System, stage: str) -> None:
    await system.start()
    component = getattr(system, stage)
    await component.stop()
    await until(lambda: system.backends.candidates(stage) == [])
    error = await system.refused(system.request("edit", picture(), task="EDIT"))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert f"no {stage} replica is serving" in str(error.details())
    metadata = dict(error.trailing_metadata())
    assert metadata["stage"] == stage
    assert int(metadata["retry-after-ms"]) > 0
    await component.start()
    await until(lambda: len(system.backends.candidates(stage)) == 1)
    await system.respond(system.request("edit", picture(), task="EDIT"))


async def test_nothing_there_at_start(system: System) -> None:
    await system.start(started=False)
    error = await system.refused(system.request("hello"))
    assert (error.code(), dict(error.trailing_metadata())["stage"]) == (grpc.StatusCode.UNAVAILABLE, "llm")
    listed = await system.stub.ListComponents(pb.ListComponentsRequest())
    assert [r.health for r in listed.replicas] == [pb.HEALTH_UNREACHABLE] * 3
    for component in system.components:
        await component.start()
    await until(lambda: all(system.backends.candidates(s) for s in ("encoder", "llm", "decoder")))
    await system.respond(system.request("hello"))


async def test_replica_that_does_not_serve_is_not_chosen(system: System) -> None:
    system.llms = [FakeLlm(), FakeLlm()]
    await system.start()
    await system.llms[0].set_serving(False)
    await until(lambda: len(system.backends.candidates("llm")) == 1)
    for _ in range(3):
        await system.respond(system.request("hello", task="UNDERSTAND"))
    assert [llm.num_calls for llm in system.llms] == [0, 3]
    replica = system.backends.replicas("llm")[0]
    assert replica.health == pb.HEALTH_NOT_SERVING
    assert "probes" in replica.detail
    assert replica.description is not None


async def test_replica_of_the_wrong_kind(system: System) -> None:
    system.encoders = [FakeLlm()]
    await system.start()
    replica = system.backends.replicas("encoder")[0]
    assert replica.health == pb.HEALTH_NOT_SERVING
    assert "expected" in replica.detail
    assert "llm mistral-tiny" in replica.detail


async def test_replica_with_an_unusable_card(system: System) -> None:
    system.llms = [FakeLlm(llm_card(facts={"template": {"colour": 1}}))]
    await system.start()
    replica = system.backends.replicas("llm")[0]
    assert replica.health == pb.HEALTH_NOT_SERVING
    assert "colour" in replica.detail


async def test_a_poll_that_breaks_is_not_the_last(
    system: System, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await system.start()
    (replica,) = system.backends.replicas("llm")

    async def broken() -> None:
        raise OSError("a file is being replaced")

    with monkeypatch.context() as patch:
        patch.setattr(replica, "poll", broken)
        await until(lambda: bool(caplog.records))
        record = caplog.records[0]
        assert record.what == f"polling llm at {replica.address}"
        assert "being replaced" in str(record.exc_info)
    replica.mark_unreachable("not asked since")
    await until(lambda: replica.is_serving)


async def test_a_search_that_breaks_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    names = Names({"llm": ["127.0.0.1:1"]})
    backends = Backends(names, 10, 2**20)
    await backends.start()
    names._addresses = {"llm": [None]}  # type: ignore[list-item]
    await until(lambda: any(r.what == "finding replicas" for r in caplog.records))
    names._addresses = {"llm": ["127.0.0.1:1", "127.0.0.1:2"]}
    await until(lambda: len(backends.replicas("llm")) == 2)
    await backends.stop()


async def test_a_replica_whose_watcher_broke_can_leave() -> None:
    backends = Backends(Names({"llm": ["127.0.0.1:1"]}), 10_000, 2**20)
    await backends.start()
    (key,) = backends._watchers
    watcher = backends._watchers[key]
    watcher.cancel()
    await asyncio.gather(watcher, return_exceptions=True)

    async def broken() -> None:
        raise OSError("unforeseen")

    backends._watchers[key] = asyncio.create_task(broken())
    await asyncio.sleep(0)
    await backends._forget(key)
    assert backends.replicas("llm") == []
    await backends.stop()


async def test_upgraded_replica_shows_its_new_card(system: System) -> None:
    await system.start()
    await system.encoder.stop()
    system.encoder.card = encoder_card(version="2.0.0", digest="sha256:e2e2")
    await system.encoder.start()
    await until(lambda: [c.card.version for c in system.backends.candidates("encoder")] == ["2.0.0"])


async def test_load_spreads_requests(system: System) -> None:
    system.llms = [FakeLlm(), FakeLlm(), FakeLlm()]
    for llm in system.llms:
        llm.hold = asyncio.Event()
    await system.start()
    calls = [asyncio.create_task(system.respond(system.request("hello", task="UNDERSTAND"))) for _ in range(6)]
    await until(lambda: sum(llm.num_running for llm in system.llms) == 6)
    assert [llm.num_running for llm in system.llms] == [2, 2, 2]
    await asyncio.sleep(0.1)  # polled meanwhile: our own requests are not counted twice
    assert [c.load for c in system.backends.candidates("llm")] == [2, 2, 2]
    for llm in system.llms:
        llm.hold.set()
    await asyncio.gather(*calls)
    # A poll under way may have counted them still; the next one does not.
    await until(lambda: [c.load for c in system.backends.candidates("llm")] == [0, 0, 0])


async def test_load_of_other_callers_counts(system: System) -> None:
    system.llms = [FakeLlm(), FakeLlm()]
    system.llms[0].num_running = 3
    await system.start()
    for _ in range(2):
        await system.respond(system.request("hello", task="UNDERSTAND"))
    assert [llm.num_calls for llm in system.llms] == [0, 2]


async def test_sequential_requests_take_turns(system: System) -> None:
    system.llms = [FakeLlm(), FakeLlm()]
    await system.start()
    for _ in range(4):
        await system.respond(system.request("hello", task="UNDERSTAND"))
    assert [llm.num_calls for llm in system.llms] == [2, 2]


async def test_another_generation_takes_over_where_nothing_was_shown(system: System) -> None:
    system.encoders = [FakeEncoder(), FakeEncoder(encoder_card(digest="sha256:e9e9"))]
    system.encoders[0].errors = [(grpc.StatusCode.UNAVAILABLE, "Socket closed")] * 9
    await system.start()
    responses = await system.respond(system.request("what?", picture(), task="UNDERSTAND"))
    assert [s.digest for s in responses[-1].done.served_by if s.kind == "encoder"] == ["sha256:e9e9"]
    assert system.encoders[1].num_calls == 1


async def test_only_one_that_fits_takes_over(system: System) -> None:
    system.encoders = [FakeEncoder(), FakeEncoder(encoder_card("in@2", digest="sha256:e9e9"))]
    system.encoders[0].errors = [(grpc.StatusCode.UNAVAILABLE, "Socket closed")] * 9
    await system.start()
    error = await system.refused(system.request("what?", picture(), task="UNDERSTAND"))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert dict(error.trailing_metadata())["replica"] == system.encoders[0].address
    assert 1 <= system.encoders[0].num_calls <= MAX_ATTEMPTS
    assert system.encoders[1].num_calls == 0


async def test_every_replica_lost(system: System) -> None:
    system.decoders = [FakeDecoder(), FakeDecoder()]
    for decoder in system.decoders:
        decoder.errors = [(grpc.StatusCode.UNAVAILABLE, "Socket closed")] * 9
    await system.start()
    error = await system.refused(system.request("draw", task="GENERATE"))
    assert (error.code(), dict(error.trailing_metadata())["stage"]) == (grpc.StatusCode.UNAVAILABLE, "decoder")
    assert sum(d.num_calls for d in system.decoders) <= MAX_ATTEMPTS
    assert min(d.num_calls for d in system.decoders) >= 1


async def test_chosen_replica_gone_before_its_stage(system: System) -> None:
    await system.start()
    (chosen,) = system.backends.candidates("llm")
    system.backends.replicas("llm")[0].mark_unreachable("gone")
    with pytest.raises(Unavailable, match=r"llm mistral-tiny 1\.0\.0 at .* no other replica") as caught:
        system.backends.attempts(chosen)
    assert caught.value.stage == "llm"


async def test_name_stands_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ["10.0.0.2", "10.0.0.1"]

    async def resolved(address: str) -> list[str]:
        return [f"{ip}:50051" for ip in found]

    monkeypatch.setattr("services.orchestrator.discovery.names.resolve", resolved)
    backends = Backends(Names({"llm": ["llm:50051"]}), 10, 2**20)
    await backends._find()
    assert [r.address for r in backends.replicas("llm")] == ["10.0.0.2:50051", "10.0.0.1:50051"]
    found[:] = ["10.0.0.1", "10.0.0.3"]
    backends.replicas("llm")[0].description = component_pb2.DescribeResponse()
    with backends.replicas("llm")[0].calling():
        await backends._find()
        assert len(backends.replicas("llm")) == 3, "a busy one is kept"
    await backends._find()
    assert [r.address for r in backends.replicas("llm")] == ["10.0.0.1:50051", "10.0.0.3:50051"]
    await backends.stop()


async def test_resolve() -> None:
    assert await resolve("127.0.0.1:5") == ["127.0.0.1:5"]
    assert await resolve("[::1]:5") == ["[::1]:5"]
    assert await resolve("localhost:5") == ["127.0.0.1:5"]
    assert await resolve("no-such-name.invalid:5") == ["no-such-name.invalid:5"]


async def test_ipv6_only_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*args, **kwargs):
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::2", 5, 0, 0))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    assert await resolve("six:5") == ["[::2]:5"]


async def test_backends_call_with_tls_and_by_name(tmp_path: Path) -> None:
    """The name in the settings is the name the certificate must carry, also where it was resolved to an address."""
    authority = Authority()
    mine = authority.issue(tmp_path / "mine", ["orchestrator"])
    named = authority.issue(tmp_path / "named", ["localhost"])
    other = authority.issue(tmp_path / "other", ["elsewhere"])
    health = {}
    for folder in (named, other):
        server = GrpcServer(OrchestratorConfig(tls_dir=folder), lambda _: None, [])
        port = (await server.start()).rpartition(":")[2]
        backends = Backends(Names({"llm": [f"localhost:{port}"]}), 10_000, 2**20, TlsFiles.in_folder(mine))
        await backends.start()
        (replica,) = backends.replicas("llm")
        health[folder.name] = replica.detail
        await backends.stop()
        await server.drain(0)
    assert "localhost" not in health["named"]
    assert "not found" in health["named"].lower()  # it answered: it only has no Describe
    assert "ame" in health["other"]
    assert health["named"] != health["other"]
