"""Two replicas of a stage, and what happens to one of them while it answers. Only processes of these tests' own are
hurt; the other replica is the shared system's.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.pictures import noise
from tests.integration.processes import (
    Process,
    System,
    component,
    num_busy,
    orchestrator,
    replicas,
    wait_until,
)
from triptych.client import Client
from triptych.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from triptych.replies import Done, Drawing, Event, Progress, TextDelta
from triptych.requests import Params
from triptych.v1 import orchestrator_pb2 as pb

SILENCE_S = 0.7
PATIENCE_S = 10.0  # on a machine that is busy with other things
LONG_DRAWING = Params(seed=1, steps=60, max_tokens=4)
LONG_TEXT = Params(seed=1, max_tokens=400)


@pytest.fixture(scope="module")
def own(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    """A second LLM and a second decoder."""
    folder = tmp_path_factory.mktemp("own")
    with (
        component("llm", system.checkpoint, folder) as llm,
        component("decoder", system.checkpoint, folder) as decoder,
    ):
        made = {"llm": llm, "decoder": decoder}
        for process in made.values():
            process.await_serving()
        yield made


@pytest.fixture(scope="module")
def client(system: System, own: dict[str, Process], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of an orchestrator with two of each but one encoder."""
    pairs = {stage: f"{process.address},{system.components[stage]}" for stage, process in own.items()}
    folder = tmp_path_factory.mktemp("front")
    with (
        orchestrator(folder, system.components | pairs, "--silence-ms", str(int(SILENCE_S * 1000))) as front,
        Client(front.await_serving(), timeout_s=60) as made,
    ):
        yield made


def talking(client: Client) -> Iterator[Event]:
    return client.stream("go on, please", [noise()], "understand", LONG_TEXT)


def drawing(client: Client) -> Iterator[Event]:
    return client.stream("a ball", (), "generate", LONG_DRAWING)


USES: dict[str, tuple[Callable[[Client], Iterator[Event]], type[TextDelta] | type[Progress]]] = {
    "llm": (talking, TextDelta),
    "decoder": (drawing, Progress),
}


def outcome(events: list[Event]) -> tuple[str, list[bytes], list[int]]:
    """What a user cares for: the text, the pictures, the steps shown."""
    return (
        "".join(event.text for event in events if isinstance(event, TextDelta)),
        [event.png for event in events if isinstance(event, Drawing)],
        [event.step for event in events if isinstance(event, Progress)],
    )


def replica_id(address: str, at: str) -> str:
    return next(r.description.replica_id for r in replicas(address) if r.address == at)


def caught(client: Client, stage: str, at: str) -> tuple[Iterator[Event], list[Event]]:
    """A request that the replica at `at` is working on, and what it has said so far."""
    start, first = USES[stage]
    for _ in range(4):  # replicas take turns
        events = start(client)
        seen = []
        for event in events:
            seen.append(event)
            if isinstance(event, first):
                break
        if num_busy(at):
            return events, seen
        list(events)
    raise AssertionError(f"{stage} at {at} is never asked")


def await_candidates(client: Client, stage: str, number: int) -> None:
    def serving() -> int:
        return sum(r.health == pb.HEALTH_SERVING for r in replicas(client.address) if r.kind == stage)

    wait_until(lambda: serving() == number, f"{number} {stage} replicas serve", PATIENCE_S)


@contextmanager
def stopped(process: Process) -> Iterator[None]:
    process.send(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send(signal.SIGCONT)


@pytest.mark.parametrize("stage", ["llm", "decoder"])
def test_hang(system: System, own: dict[str, Process], client: Client, stage: str) -> None:
    with Client(system.address) as whole:
        expected = outcome(list(USES[stage][0](whole)))
    address = own[stage].address
    hung = replica_id(client.address, address)
    events, seen = caught(client, stage, address)
    with stopped(own[stage]):
        await_candidates(client, stage, 1)
        assert "silent" in next(r.detail for r in replicas(client.address) if r.address == address)
        seen += list(events)
    assert outcome(seen) == expected
    assert isinstance(seen[-1], Done)
    assert hung not in {served.replica_id for served in seen[-1].served_by}
    await_candidates(client, stage, 2)


def test_hang_of_the_only_replica(system: System, own: dict[str, Process], tmp_path: Path) -> None:
    alone = system.components | {"llm": own["llm"].address}
    flags = ("--silence-alone-ms", "1000")
    with orchestrator(tmp_path, alone, *flags) as front, Client(front.await_serving(), timeout_s=60) as client:
        expected = client.ask(noise(), "what?").text
        events, _ = caught(client, "llm", own["llm"].address)
        with stopped(own["llm"]):
            with pytest.raises(Unavailable, match="silent") as caught_error:
                list(events)
            assert caught_error.value.stage == "llm"
            began = time.monotonic()
            with pytest.raises(Unavailable, match="no llm replica is serving"):
                list(client.stream("hello", (), "understand"))
            assert time.monotonic() - began < PATIENCE_S
        await_candidates(client, "llm", 1)
        assert client.ask(noise(), "what?").text == expected


def test_orchestrator_that_is_killed(system: System, tmp_path: Path) -> None:
    """Its callers are told, and the components drop what they did for it."""
    with orchestrator(tmp_path, system.components) as front, Client(front.await_serving(), timeout_s=60) as client:
        streams = [drawing(client), talking(client)]
        for events in streams:
            next(events)
        front.kill()
        for events in streams:
            with pytest.raises(Unavailable):
                list(events)
    wait_until(lambda: all(num_busy(a) == 0 for a in system.components.values()), "all is idle", PATIENCE_S)


def test_overload(system: System, tmp_path: Path) -> None:
    """Everybody is answered or refused, and within his deadline."""
    flags = ("--max-num-requests", "2", "--max-queue-size", "4")
    timeout_s, ends = 8.0, []
    with orchestrator(tmp_path, system.components, *flags) as front:
        address = front.await_serving()
        barrier = threading.Barrier(30)

        def use(index: int) -> str:
            with Client(address, timeout_s=timeout_s) as client:
                barrier.wait()
                began = time.monotonic()
                try:
                    client.draw("a ball", seed=index, steps=20)
                except ResourceExhausted as error:
                    return "refused" if error.retry_after_ms > 0 else "refused without a hint"
                except DeadlineExceeded:
                    return "late"
                finally:
                    ends.append(time.monotonic() - began)
            return "answered"

        with ThreadPoolExecutor(30) as threads:
            outcomes = list(threads.map(use, range(30)))
        assert max(ends) < timeout_s + 1
        assert outcomes.count("answered") >= 2
        assert outcomes.count("answered") + outcomes.count("late") >= 6
        assert set(outcomes) - {"late"} == {"answered", "refused"}
        wait_until(lambda: all(num_busy(a) == 0 for a in system.components.values()), "all is idle", PATIENCE_S)


@pytest.mark.parametrize("stage", ["llm", "decoder"])
def test_kill(system: System, own: dict[str, Process], client: Client, stage: str) -> None:
    """Last: the replica stays dead."""
    with Client(system.address) as whole:
        expected = outcome(list(USES[stage][0](whole)))
    address = own[stage].address
    events, seen = caught(client, stage, address)
    own[stage].kill()
    seen += list(events)
    assert outcome(seen) == expected
    await_candidates(client, stage, 1)
    assert outcome(list(USES[stage][0](client))) == expected
