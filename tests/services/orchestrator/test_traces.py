"""One trace from the client through the orchestrator to every stage's call, as a collector receives it."""

import asyncio
from collections.abc import Iterator

import pytest
from prometheus_client.openmetrics.exposition import generate_latest

from tests.services.orchestrator.fakes import picture
from tests.services.orchestrator.system import System
from tests.triptych.collector import Collector, collecting
from triptych import traces
from triptych.client import AsyncClient
from triptych.errors import Unavailable


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        traces.configure(f"otlp://{made.address}", "test")
        yield made
        traces.close()


async def test_a_request_is_one_trace(system: System, collector: Collector) -> None:
    await system.start()
    async with AsyncClient(system.address) as client:
        await client.edit(picture(), "make it blue", seed=1)
    await system.stop()
    traces.close()
    respond, root = collector.one("Respond"), collector.one("respond")
    assert {span.trace_id for span in collector.spans} == {root.trace_id}
    assert (root.parent_id, respond.parent_id) == ("", root.span_id)
    assert respond.attributes["status"] == "OK"
    inside = {span.name: span for span in collector.spans if span.parent_id == respond.span_id}
    assert set(inside) == {"queue", "check pictures", "embed", "call llm", "receive", "call decoder"}
    assert inside["embed"].attributes == {"pictures": 1, "cache_hits": 0, "cache_misses": 1}
    assert collector.one("call encoder").parent_id == inside["embed"].span_id
    for stage, fake in (("encoder", system.encoder), ("llm", system.llm), ("decoder", system.decoder)):
        call = collector.one(f"call {stage}")
        assert call.attributes["address"] == fake.address
        (traceparent,) = fake.traceparents
        assert traceparent.startswith(f"00-{root.trace_id}-{call.span_id}-")


async def test_a_lost_call_is_an_error_of_its_own(system: System, collector: Collector) -> None:
    system.settings["poll_interval_ms"] = 60_000
    await system.start()
    await system.llm.stop()
    async with AsyncClient(system.address, timeout_s=5) as client:
        with pytest.raises(Unavailable):
            await client.respond(system.request("hello", task="UNDERSTAND")).__anext__()
    await asyncio.sleep(0)
    traces.close()
    assert [span.is_error for span in collector.named("call llm")] == [True]
    assert collector.named("Respond")[0].attributes["status"] == "UNAVAILABLE"


async def test_exemplars_name_the_trace(system: System, collector: Collector) -> None:
    await system.start()
    async with AsyncClient(system.address) as client:
        await client.ask(picture(), "what is it?")
    page = generate_latest(system.metrics.registry).decode()
    await system.stop()
    traces.close()
    respond = collector.one("Respond")
    (line,) = [x for x in page.splitlines() if x.startswith("triptych_orchestrator_call_ms_bucket") and "# {" in x]
    assert f'trace_id="{respond.trace_id}"' in line
    assert f'span_id="{respond.span_id}"' in line
