"""Single services as real processes, and the small questions one asks about them."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from triptych.client import Client
from triptych.v1 import component_pb2, component_pb2_grpc
from triptych.v1 import orchestrator_pb2 as pb

ROOT: Final = Path(__file__).parents[2]
STAGES: Final = ("encoder", "llm", "decoder")
SERVICES: Final = (*STAGES, "orchestrator")
TRIPTYCH: Final = (sys.executable, "-c", "from triptych.cli import main; main()")
PATIENCE_S: Final = 300.0  # a process that imports torch may take this long on a busy machine


@dataclass(frozen=True)
class System:
    """Where four running processes are found, and what they were started from."""

    address: str
    log_dir: Path
    checkpoint: Path

    @property
    def components(self) -> dict[str, str]:
        """Stage to address."""
        return {replica.kind: replica.address for replica in replicas(self.address)}

    def log(self, service: str) -> str:
        return (self.log_dir / f"{service}.log").read_text()

    def metrics(self, service: str) -> dict[str, float]:
        """Name, with labels, to value."""
        found = re.search(r"metrics address=(\S+)", self.log(service))
        assert found is not None, self.log(service)
        with urllib.request.urlopen(f"http://{found[1]}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


class Process:
    """`python -m services.<service>`; ended with the block, if it has not ended before."""

    def __init__(self, service: str, folder: Path, *flags: str) -> None:
        """Starts at once. Address file and log go to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._address_file = folder / f"{service}.address"
        self._log = folder / f"{service}.log"
        self._address_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", f"services.{service}", "--address-file", str(self._address_file), *flags]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    @property
    def address(self) -> str:
        """Waits until it listens."""
        wait_until(lambda: self._address_file.exists() or self._process.poll() is not None, "it listens")
        assert self._process.poll() is None, self.log
        return self._address_file.read_text()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def await_serving(self) -> str:
        """Its address, once health says SERVING."""
        with grpc.insecure_channel(self.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            serving = health_pb2.HealthCheckResponse.SERVING
            wait_until(lambda: stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status == serving, self.log)
        return self.address

    def kill(self) -> None:
        """As a crash would."""
        self._process.kill()
        self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """SIGSTOP hangs it, SIGCONT lets it go on."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM; `wait` tells what came of it."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit code."""
        return self._process.wait(PATIENCE_S)


def component(service: str, checkpoint: Path, folder: Path, *flags: str) -> Process:
    """Encoder, LLM or decoder out of a checkpoint."""
    return Process(service, folder, "--checkpoint", str(checkpoint / service), *flags)


def orchestrator(folder: Path, addresses: dict[str, str], *flags: str) -> Process:
    """In front of what listens, or will listen, at `addresses` by stage."""
    return Process(
        "orchestrator",
        folder,
        *(part for stage, address in addresses.items() for part in (f"--{stage}-addresses", address)),
        *("--poll-interval-ms", "50"),
        *flags,
    )


def environment(**more: str) -> dict[str, str]:
    """One thread for each process: the same arithmetic as in the tests' own."""
    threads = {f"{stage.upper()}_NUM_THREADS": "1" for stage in STAGES}
    return os.environ | threads | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


def run(*command: str | Path, cwd: Path = ROOT, text: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """A command to its end; `more` are environment variables."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(**more),
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def replicas(address: str) -> list[pb.Replica]:
    """As the orchestrator sees them."""
    with Client(address, timeout_s=10) as client:
        return list(client.components().replicas)


def num_busy(address: str) -> int:
    """Requests that the component at `address` runs or lets wait, by its own account."""
    with grpc.insecure_channel(address) as channel:
        stub = component_pb2_grpc.ComponentServiceStub(channel)
        load = stub.Describe(component_pb2.DescribeRequest(), timeout=10).load
    return load.num_running + load.num_waiting


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
