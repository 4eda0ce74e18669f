"""A whole system on this machine: the four processes started, watched, and stopped together. `triptych up` is a thin
layer over it; tests use it too.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import triptych
from triptych import strict_json
from triptych.access import Access
from triptych.card import read_card, verify_digest
from triptych.client import Client
from triptych.errors import CheckpointError, FailedPrecondition, InvalidArgument, TriptychError, Unavailable
from triptych.v1 import orchestrator_pb2 as pb

HOST: Final = "127.0.0.1"
COMPONENTS: Final = ("encoder", "llm", "decoder")
SERVICES: Final = (*COMPONENTS, "orchestrator")
DEVICES: Final = ("auto", "cpu", "cuda")
DTYPES: Final = ("auto", "f32", "bf16")
POLL_S: Final = 0.1
DRAIN_TIMEOUT_S: Final = 10
NUM_TAIL_LINES: Final = 15


class LocalSystem:
    """A checkpoint's encoder, LLM and decoder, if it has one, and the orchestrator in front. A context manager."""

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        port: int = 0,
        device: str = "auto",
        dtype: str = "auto",
        log_dir: str | Path | None = None,
        start_timeout_s: float = 300.0,
        tls: bool = False,
    ) -> None:
        """Starts nothing yet. `port` is the orchestrator's, 0 picks a free one; without `log_dir` the logs go to a new
        temporary folder; `tls` makes certificates for all, in `tls_dir`. Raises CheckpointError or InvalidArgument for
        what cannot be started.
        """
        _check_choice("device", device, DEVICES)
        _check_choice("dtype", dtype, DTYPES)
        self._components = check_checkpoint(Path(checkpoint))
        _check_port(port)
        self.log_dir = Path(log_dir) if log_dir is not None else Path(tempfile.mkdtemp(prefix="triptych-"))
        self._checkpoint = Path(checkpoint)
        self._port = port
        self._device = device
        self._dtype = dtype
        self._start_timeout_s = start_timeout_s
        self.tls_dir = self.log_dir / "tls" if tls else None
        self._addresses: dict[str, str] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        """Of the orchestrator; empty before `start`."""
        return self._addresses.get("orchestrator", "")

    def start(self) -> str:
        """Returns the orchestrator's address once all four serve. Raises TriptychError with the end of the log when a
        process dies on the way; the others are stopped then.
        """
        self.log_dir.mkdir(parents=True, exist_ok=True)
        if self.tls_dir is not None:
            from triptych.certificates import Authority  # slow to import, rarely needed

            Authority().issue(self.tls_dir, ("localhost", HOST))
        try:
            for service in self._components:
                self._spawn(service)
            for service in self._components:
                self._await_address(service)
            self._spawn("orchestrator")
            self._await_address("orchestrator")
            self._await_serving()
        except BaseException:
            self.stop()
            raise
        return self.address

    @property
    def access(self) -> Access:
        """What a client needs to get in."""
        return replace(Access.from_environment(), tls_dir=self.tls_dir)

    def check(self) -> None:
        """Raises TriptychError with the end of its log when a process has died by itself."""
        for service, process in self._processes.items():
            if (code := process.poll()) is not None:
                ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                log = self._log(service)
                raise TriptychError(f"{service} {ended}; the end of {log}:\n{_tail(log)}", stage=service)

    def wait(self) -> None:
        """Blocks until a process dies, see `check`."""
        while True:
            self.check()
            time.sleep(POLL_S)

    def kill(self, service: str) -> None:
        """SIGKILL, as a crash would; `check` does not complain about it."""
        process = self._processes.pop(service)
        process.kill()
        process.wait()

    def restart(self, service: str) -> None:
        """Starts a service again, at its old address; returns when the whole system serves."""
        if service in self._processes:
            self.kill(service)
        self._spawn(service)
        self._await_address(service)
        self._await_serving()

    def stop(self) -> None:
        """SIGTERM to the orchestrator, then to the others; each may finish its calls; SIGKILL to what is left."""
        deadline = time.monotonic() + 2 * DRAIN_TIMEOUT_S
        try:
            for group in (("orchestrator",), COMPONENTS):
                processes = [self._processes[service] for service in group if service in self._processes]
                for process in processes:
                    process.terminate()
                for process in processes:
                    _wait(process, deadline)
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()
            self._processes.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _spawn(self, service: str) -> None:
        self._address_file(service).unlink(missing_ok=True)
        command = [sys.executable, "-m", f"services.{service}", *self._flags(service)]
        with self._log(service).open("ab") as log:
            self._processes[service] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                process_group=0,  # Ctrl-C is for us alone: we stop them in order
            )

    def _flags(self, service: str) -> list[str]:
        port = self._addresses[service].rpartition(":")[2] if service in self._addresses else "0"
        flags = {"--host": HOST, "--address-file": str(self._address_file(service)), "--log-format": "text"}
        flags["--drain-timeout-s"] = str(DRAIN_TIMEOUT_S)
        if self.tls_dir is not None:
            flags["--tls-dir"] = str(self.tls_dir)
        if service == "orchestrator":
            flags["--port"] = str(self._port or port)
            flags.update({f"--{name}-addresses": self._addresses[name] for name in self._components})
        else:
            flags["--port"] = port
            flags.update(
                {"--checkpoint": str(self._checkpoint / service), "--device": self._device, "--dtype": self._dtype}
            )
        return [part for flag in flags.items() for part in flag]

    def _await_address(self, service: str) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        file = self._address_file(service)
        while not file.exists():
            self._pause(deadline, f"{service} does not listen")
        self._addresses[service] = file.read_text(encoding="utf-8").strip()

    def _await_serving(self) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        with Client(self.address, timeout_s=5, access=self.access) as client:
            while missing := _missing(client):
                self._pause(deadline, missing)

    def _pause(self, deadline: float, missing: str) -> None:
        self.check()
        if time.monotonic() > deadline:
            raise Unavailable(f"{missing} after {self._start_timeout_s:g} s; logs are in {self.log_dir}")
        time.sleep(POLL_S)

    def _log(self, service: str) -> Path:
        return self.log_dir / f"{service}.log"

    def _address_file(self, service: str) -> Path:
        return self.log_dir / f"{service}.address"


def check_checkpoint(folder: Path) -> tuple[str, ...]:
    """The components it holds: all three, or no decoder where the LLM does not draw.

    Raises CheckpointError naming what is missing, malformed, half-copied or changed.
    """
    file = folder / "system.json"
    try:
        strict_json.read(file)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is no checkpoint: {file} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}") from error
    draws = read_card(folder / "llm").facts.get("handover") != "none"
    components = COMPONENTS if draws or (folder / "decoder").exists() else COMPONENTS[:2]
    with ThreadPoolExecutor(len(components)) as threads:
        list(threads.map(lambda name: verify_digest(folder / name, read_card(folder / name)), components))
    return components


def _missing(client: Client) -> str:
    """What is not serving yet. Raises FailedPrecondition when all serve but do not fit together."""
    try:
        components = client.components()
    except Unavailable as error:
        return str(error)
    for replica in components.replicas:
        if replica.health != pb.HEALTH_SERVING:
            return f"{replica.kind} at {replica.address} is not serving ({replica.detail})"
    if not any(chain.compatible for chain in components.chains):
        raise FailedPrecondition("no compatible chain: " + "; ".join(chain.reason for chain in components.chains))
    return ""


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidArgument(f"{name} is {value!r}, must be one of {', '.join(known)}")


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InvalidArgument(f"port {port} on {HOST}: {error.strerror}; choose another one with --port") from error


def _environment() -> dict[str, str]:
    """Ours, with the folder that holds `triptych` and `services` importable from wherever we stand."""
    root = str(Path(triptych.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def _wait(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-NUM_TAIL_LINES:])
