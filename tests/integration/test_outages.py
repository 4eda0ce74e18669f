"""Processes that are missing, crash, or are told to stop. Only processes of these tests' own are hurt."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.pictures import noise
from tests.integration.processes import (
    STAGES,
    TRIPTYCH,
    Process,
    System,
    component,
    num_busy,
    orchestrator,
    replicas,
    run,
    wait_until,
)
from triptych.client import Client
from triptych.errors import Unavailable
from triptych.replies import Drawing, Event, ImageStarted, Progress
from triptych.requests import Params
from triptych.v1 import orchestrator_pb2 as pb

LONG = Params(seed=1, steps=200, preview_interval=1)
USES: dict[str, Callable[[Client], object]] = {
    "encoder": lambda client: client.ask(noise(), "what?").text,
    "llm": lambda client: client.ask((), "hello").text,
    "decoder": lambda client: client.draw("a ball", seed=1).png,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_health(address: str, stage: str, health: "pb.Health.ValueType") -> None:
    wait_until(lambda: all(r.health == health for r in replicas(address) if r.kind == stage), f"{stage} is {health}")


def drawing(client: Client) -> tuple[Iterator[Event], Event]:
    """A long drawing under way, and its first step."""
    events = client.stream("a ball", (), "generate", LONG)
    return events, next(event for event in events if isinstance(event, Progress))


def finished(events: Iterator[Event]) -> bytes:
    return next(event.png for event in events if isinstance(event, Drawing))


def test_everything_is_missing(tmp_path: Path) -> None:
    nobody = {stage: f"127.0.0.1:{free_port()}" for stage in STAGES}
    with orchestrator(tmp_path, nobody) as front, Client(front.await_serving()) as client:
        assert {replica.health for replica in replicas(client.address)} == {pb.HEALTH_UNREACHABLE}
        with pytest.raises(Unavailable, match="no llm replica is serving"):
            client.draw("a ball")
        front.terminate()
        assert front.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize("missing", STAGES)
def test_missing_at_start_then_there_then_killed(system: System, tmp_path: Path, missing: str) -> None:
    """The rest of the system answers what it can without the one that is missing."""
    port = free_port()
    addresses = system.components | {missing: f"127.0.0.1:{port}"}
    with orchestrator(tmp_path, addresses) as front, Client(front.await_serving(), timeout_s=60) as client:

        def assert_only_this_stage_is_missed() -> None:
            for stage, use in USES.items():
                if stage == missing:
                    with pytest.raises(Unavailable, match=missing) as caught:
                        use(client)
                    assert caught.value.stage == missing
                elif missing != "llm":  # without it nothing works
                    assert use(client)

        assert_only_this_stage_is_missed()
        with component(missing, system.checkpoint, tmp_path, "--port", str(port)) as returned:
            returned.await_serving()
            await_health(client.address, missing, pb.HEALTH_SERVING)
            with Client(system.address) as whole:
                assert [use(client) for use in USES.values()] == [use(whole) for use in USES.values()]
            returned.kill()
        await_health(client.address, missing, pb.HEALTH_UNREACHABLE)
        assert_only_this_stage_is_missed()


def test_decoder_that_crashes_mid_drawing(system: System, tmp_path: Path) -> None:
    """With nobody to take over, the user is told who went; with another replica, the user gets the same picture."""
    with Client(system.address) as whole, closing(whole.stream("a ball", (), "generate", LONG)) as undisturbed:
        expected = finished(undisturbed)
    with component("decoder", system.checkpoint, tmp_path / "own") as own:
        crashing = own.await_serving()
        alone = system.components | {"decoder": crashing}
        pair = system.components | {"decoder": f"{crashing},{system.components['decoder']}"}
        with (
            orchestrator(tmp_path / "alone", alone) as one,
            orchestrator(tmp_path / "pair", pair) as two,
            Client(one.await_serving()) as without,
            Client(two.await_serving()) as with_another,
        ):
            kept, _ = drawing(with_another)  # first: the least loaded replica is taken, among equals the first one
            lost, _ = drawing(without)
            assert num_busy(crashing) == 2
            own.kill()
            with pytest.raises(Unavailable, match=f"decoder at {crashing} went away") as caught:
                list(lost)
            assert caught.value.stage == "decoder"
            events = list(kept)
            steps = [event.step for event in events if isinstance(event, Progress)]
            assert steps == sorted(set(steps)), "no step is shown twice"
            assert finished(iter(events)) == expected
            assert without.ask((), "hello").text == with_another.ask((), "hello").text


def test_sigterm_lets_running_drawings_finish(system: System, tmp_path: Path) -> None:
    with component("decoder", system.checkpoint, tmp_path) as own:
        addresses = system.components | {"decoder": own.await_serving()}
        with orchestrator(tmp_path, addresses) as front, Client(front.await_serving()) as client:
            running = [drawing(client)[0] for _ in range(3)]
            own.terminate()
            await_health(client.address, "decoder", pb.HEALTH_DRAINING)
            with pytest.raises(Unavailable, match="decoder"):
                client.draw("one more")
            with ThreadPoolExecutor(len(running)) as threads:
                assert len(set(threads.map(finished, running))) == 1
            assert own.wait() == 0
            assert "cut off" not in own.log


def test_sigterm_to_the_orchestrator_lets_replies_finish(system: System, tmp_path: Path) -> None:
    with orchestrator(tmp_path, system.components) as front, Client(front.await_serving()) as client:
        events, first = drawing(client)
        assert isinstance(first, Progress)
        front.terminate()
        wait_until(lambda: "draining" in front.log, "the orchestrator drains")
        assert finished(events)
        list(events)
        assert front.wait() == 0
        with pytest.raises(Unavailable, match="no orchestrator answers"):
            client.draw("one more")


def test_drain_timeout_cuts_off_what_takes_too_long(system: System, tmp_path: Path) -> None:
    flags = ("--drain-timeout-s", "0")
    with orchestrator(tmp_path, system.components, *flags) as front, Client(front.await_serving()) as client:
        events = client.stream("a ball", (), "generate", LONG)
        assert isinstance(next(events), ImageStarted)
        front.terminate()
        started = time.monotonic()
        with pytest.raises(Unavailable):  # with our reason, or gRPC's own when that is a little faster
            list(events)
        assert front.wait() == 0
        assert time.monotonic() - started < 10
    wait_until(lambda: all(num_busy(address) == 0 for address in system.components.values()), "all is idle", 5)


def test_port_in_use(system: System, tmp_path: Path) -> None:
    taken = system.address.rpartition(":")[2]
    with Process("orchestrator", tmp_path, "--port", taken, "--log-level", "error") as second:
        assert second.wait() == 2
        assert second.log.splitlines()[-1] == (
            f"orchestrator: cannot listen on 127.0.0.1:{taken}: "
            "the port is taken, or the host is no address of this machine"
        )
    up = run(*TRIPTYCH, "up", "--checkpoint", system.checkpoint, "--port", taken)
    assert (up.returncode, up.stdout) == (2, "")
    assert up.stderr == f"error: port {taken} on 127.0.0.1: Address already in use; choose another one with --port\n"
