"""What is counted when things go wrong, and that labels stay few."""

from services.orchestrator.metrics import Bounded
from tests.services.orchestrator.fakes import FakeLlm, until
from tests.services.orchestrator.system import System


def test_labels_are_bounded() -> None:
    names = Bounded(2)
    assert [names.label(value) for value in ("a", "b", "a", "c", "b")] == ["a", "b", "a", "other", "b"]


async def test_a_retry_is_one_more_call(system: System) -> None:
    system.settings["poll_interval_ms"] = 60_000
    system.llms.append(FakeLlm())
    await system.start()
    await system.llms[0].stop()
    await system.respond(system.request("hello", task="UNDERSTAND"))
    await system.respond(system.request("hello", task="UNDERSTAND"))
    labels = {"stage": "llm", "generation": system.llm.card.generation}
    assert system.counted("stage_calls_total", **labels, status="UNAVAILABLE") == 1
    assert system.counted("stage_calls_total", **labels, status="OK") == 2
    assert system.counted("requests_total", task="understand", status="OK") == 2
    assert system.counted("replicas", stage="llm", state="unreachable") == 1
    assert system.counted("replicas", stage="llm", state="serving") == 1


async def test_replica_states_follow_the_replicas(system: System) -> None:
    await system.start()
    assert system.counted("replicas", stage="decoder", state="serving") == 1
    await system.decoder.set_serving(False)
    await until(lambda: system.counted("replicas", stage="decoder", state="not_serving") == 1)
    assert system.counted("replicas", stage="decoder", state="serving") == 0
    await system.decoder.stop()
    await until(lambda: system.counted("replicas", stage="decoder", state="unreachable") == 1)


async def test_the_chain_names_the_generations(system: System) -> None:
    await system.start()
    await system.respond(system.request("hello", task="UNDERSTAND"))
    chain = f"none-{system.llm.card.generation}-none"
    assert system.counted("chain_requests_total", chain=chain) == 1
