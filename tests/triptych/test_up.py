"""LocalSystem and `triptych up` with the real orchestrator process; the three components are small stand-ins."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.services.orchestrator.cards import decoder_card, encoder_card, picture
from tests.triptych.stand_ins import install, write_checkpoint
from triptych.card import write_card
from triptych.client import Client
from triptych.errors import CheckpointError, FailedPrecondition, InvalidArgument, TriptychError, Unavailable
from triptych.up import LocalSystem

ROOT = Path(__file__).parents[2]
TRIPTYCH = [sys.executable, "-c", "from triptych.cli import main; main()"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


@pytest.fixture(autouse=True)
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)


def test_serves_survives_a_crash_and_stops(checkpoint: Path, tmp_path: Path) -> None:
    with LocalSystem(checkpoint, log_dir=tmp_path / "logs") as system:
        with Client(system.address, timeout_s=30) as client:
            assert client.ask(picture(), "what?").text == "a red circle"
            assert client.draw("x", seed=3).seed == 3
            address = system.address
            system.kill("llm")
            system.check()
            with pytest.raises(Unavailable) as caught:
                client.ask(picture(), "what?")
            assert caught.value.stage == "llm"
            system.restart("llm")
            assert client.ask(picture(), "what?").text == "a red circle"
            system.restart("orchestrator")
            assert system.address == address
            assert client.ask(picture(), "what?").text == "a red circle"
        pids = [process.pid for process in system._crew.members.values()]
    assert len(pids) == 4
    assert not any(is_alive(pid) for pid in pids)
    assert (tmp_path / "logs" / "encoder.log").read_text() == "stopped in peace\n"


def test_death_is_reported_with_the_end_of_the_log(checkpoint: Path) -> None:
    with LocalSystem(checkpoint) as system:
        os.kill(system._crew.members["decoder"].pid, signal.SIGKILL)
        with pytest.raises(TriptychError, match="decoder was ended by SIGKILL"):
            system.wait()


def test_replica_that_may_not_run_ends_the_start(checkpoint: Path) -> None:
    (checkpoint / "encoder" / "broken").touch()
    write_card(checkpoint / "encoder", encoder_card())
    system = LocalSystem(checkpoint)
    with pytest.raises(TriptychError, match="(?s)encoder ended with exit code 1.*probe 3 has cosine 0.5"):
        system.start()
    assert system._crew.members == {}


def test_components_that_do_not_fit_together(checkpoint: Path) -> None:
    write_card(checkpoint / "decoder", decoder_card(space="other@1"))
    with pytest.raises(FailedPrecondition, match=r"img@1.*other@1"):
        LocalSystem(checkpoint).start()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda c: (c / "system.json").unlink(), "system.json is missing"),
        (lambda c: (c / "system.json").write_text("{"), "system.json"),
        (lambda c: (c / "llm" / "card.json").unlink(), "card.json is missing"),
        (lambda c: (c / "decoder" / "weights").write_text("dec"), "decoder diffusion-tiny .* half-copied"),
    ],
)
def test_damaged_checkpoint(checkpoint: Path, damage, named: str) -> None:
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=named):
        LocalSystem(checkpoint)
    result = subprocess.run([*TRIPTYCH, "up", "--checkpoint", checkpoint], capture_output=True, text=True, env=env())
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1


def test_unknown_device(checkpoint: Path) -> None:
    with pytest.raises(InvalidArgument, match="device is 'tpu', must be one of auto, cpu, cuda"):
        LocalSystem(checkpoint, device="tpu")


def test_port_in_use(checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(InvalidArgument, match="in use"):
            LocalSystem(checkpoint, port=taken.getsockname()[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_stops_on_a_signal(checkpoint: Path, number: int) -> None:
    with command(checkpoint) as process:
        address = process.stdout.readline().strip()
        with Client(address, timeout_s=10) as client:
            assert client.ask(picture(), "what?").text == "a red circle"
        children = children_of(process.pid)
        process.send_signal(number)
        assert process.wait(20) == 0
    assert len(children) == 4
    assert not any(is_alive(pid) for pid in children)


def test_command_of_a_background_job_stops_on_sigint(checkpoint: Path) -> None:
    with command(checkpoint, "sh", "-c", 'trap "" INT; exec "$@"', "sh") as process:  # inherits SIGINT ignored
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_command_ends_when_a_service_dies(checkpoint: Path) -> None:
    with command(checkpoint) as process:
        process.stdout.readline()
        children = children_of(process.pid)
        os.kill(children[1], signal.SIGKILL)
        assert process.wait(20) == 1
        assert "ended by SIGKILL; the end of" in process.stderr.read()
    assert not any(is_alive(pid) for pid in children)


@contextmanager
def command(checkpoint: Path, *wrapper: str) -> Iterator[subprocess.Popen[str]]:
    args = [
        *wrapper,
        *TRIPTYCH,
        "up",
        "--checkpoint",
        str(checkpoint),
        "--port",
        "0",
        "--log-dir",
        str(checkpoint.parent / "logs"),
    ]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env()) as process:
        try:
            yield process
        finally:
            process.kill()


def env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Gives the system a second to clear up."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.01)
    return True
