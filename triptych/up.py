"""A whole system on this machine: its processes started, watched, upgraded one at a time, and stopped together.
`triptych up` is a thin layer over it; tests use it too.
"""

import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from triptych import strict_json
from triptych.access import Access
from triptych.card import CARD_FILE, read_card, verify_digest
from triptych.client import Client
from triptych.errors import CheckpointError, FailedPrecondition, InvalidArgument, Unavailable
from triptych.local.control import Control, socket_of
from triptych.local.crew import HOST, Crew, Launch
from triptych.local.process import Process
from triptych.local.upgrade import Plan, Upgrade
from triptych.v1 import orchestrator_pb2 as pb
from triptych.v1 import supervisor_pb2

COMPONENTS: Final = ("encoder", "llm", "decoder")
DEVICES: Final = ("auto", "cpu", "cuda")
DTYPES: Final = ("auto", "f32", "bf16")
POLL_S: Final = 0.1
MAX_REPLICAS: Final = 64


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
        replicas: Mapping[str, int] | None = None,
    ) -> None:
        """Starts nothing yet. `port` is the orchestrator's, 0 picks a free one; without `log_dir` the logs go to a new
        temporary folder; `tls` makes certificates for all, in `tls_dir`; `replicas` says how many of each component,
        one where it says nothing. Raises CheckpointError or InvalidArgument for what cannot be started.
        """
        _check_choice("device", device, DEVICES)
        _check_choice("dtype", dtype, DTYPES)
        components = check_checkpoint(Path(checkpoint))
        _check_port(port)
        self._num_replicas = dict.fromkeys(components, 1) | _check_replicas(replicas or {}, components)
        self.log_dir = Path(log_dir) if log_dir is not None else Path(tempfile.mkdtemp(prefix="triptych-"))
        self._port = port
        self._start_timeout_s = start_timeout_s
        self.tls_dir = self.log_dir / "tls" if tls else None
        settings = {"device": device, "dtype": dtype}
        launches = {name: Launch(Path(checkpoint) / name, settings) for name in components}
        self._crew = Crew(self.log_dir, launches, self.tls_dir)
        self._control = Control(self._run_upgrade)
        self._upgrading = threading.Lock()
        self._address = ""

    @property
    def address(self) -> str:
        """Of the orchestrator; empty before `start`."""
        return self._address

    def start(self) -> str:
        """Returns the orchestrator's address once all of them serve. Raises TriptychError with the end of the log when
        a process dies on the way; the others are stopped then.
        """
        self.log_dir.mkdir(parents=True, exist_ok=True)
        if self.tls_dir is not None:
            from triptych.certificates import Authority  # slow to import, rarely needed

            Authority().issue(self.tls_dir, ("localhost", HOST))
        try:
            for service, number in self._num_replicas.items():
                for _ in range(number):
                    process = self._crew.start(service, self._crew.launches[service])
                    self._crew.members[process.name] = process
            for process in list(self._crew.members.values()):
                self._await_address(process)
            self._crew.publish()
            self._address = self._await_address(self._crew.start_orchestrator(self._port))
            self._await_serving()
            self._control.start(socket_of(self.address))
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
        for process in list(self._crew.members.values()):
            process.check()

    def wait(self) -> None:
        """Blocks until a process dies, see `check`."""
        while True:
            self.check()
            time.sleep(POLL_S)

    def kill(self, name: str) -> None:
        """SIGKILL, as a crash would; `check` does not complain about it."""
        self._crew.members.pop(name).kill()

    def restart(self, name: str) -> None:
        """Starts a process again, at its old address; returns when the whole system serves."""
        if name in self._crew.members:
            self.kill(name)
        self._await_address(self._crew.restart(name))
        self._await_serving()

    def upgrade(self, plan: Plan, is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Yields what happens. Raises TriptychError with the reason when the old version goes on serving; closing the
        iterator gives the upgrade up."""
        if not self._upgrading.acquire(blocking=False):
            raise FailedPrecondition("another upgrade is under way")
        try:
            with Client(self.address, timeout_s=10, access=self.access) as client:
                yield from Upgrade(self._crew, plan, client, self._start_timeout_s, is_cancelled).run()
        finally:
            self._upgrading.release()

    def stop(self) -> None:
        """SIGTERM to the orchestrator, then to the others; each may finish its calls; SIGKILL to what is left."""
        self._control.stop()
        self._crew.end_all()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _run_upgrade(self, request: supervisor_pb2.UpgradeRequest, is_cancelled: Callable[[], bool]) -> Iterator[str]:
        yield from self.upgrade(plan_of(request, self._crew.launches), is_cancelled)

    def _await_address(self, process: Process) -> str:
        deadline_s = time.monotonic() + self._start_timeout_s
        while not (address := self._crew.address(process) if process.address else ""):
            self._pause(deadline_s, f"{process.name} does not listen")
        return address

    def _await_serving(self) -> None:
        deadline_s = time.monotonic() + self._start_timeout_s
        with Client(self.address, timeout_s=5, access=self.access) as client:
            while missing := _missing(client):
                self._pause(deadline_s, missing)

    def _pause(self, deadline_s: float, missing: str) -> None:
        self.check()
        if time.monotonic() > deadline_s:
            raise Unavailable(f"{missing} after {self._start_timeout_s:g} s; logs are in {self.log_dir}")
        time.sleep(POLL_S)


def plan_of(request: supervisor_pb2.UpgradeRequest, launches: Mapping[str, Launch]) -> Plan:
    """What `request` asks of a system that runs `launches`. Raises InvalidArgument and CheckpointError, before anything
    is started."""
    components = tuple(dict.fromkeys(request.components))
    if not components or not launches.keys() >= set(components):
        raise InvalidArgument(f"components are {list(components)}, must be some of {', '.join(launches)}")
    if not 0 < request.share <= 1 or request.trial_calls < 0 or not request.trial_s >= 0:
        raise InvalidArgument("share must be above 0 and at most 1, trial_calls and trial_s at least 0")
    if not request.checkpoint and not request.settings:
        raise InvalidArgument("neither a checkpoint nor a setting is given: there is nothing to upgrade to")
    new: dict[str, Launch] = {}
    for name in components:
        folder = _component_folder(Path(request.checkpoint), name) if request.checkpoint else launches[name].checkpoint
        card = read_card(folder)
        if card.kind != name:
            raise CheckpointError(f"{folder} holds {card.label}, not {name}")
        verify_digest(folder, card)
        new[name] = Launch(folder.absolute(), {**launches[name].settings, **request.settings})
    return Plan(new, request.share, request.trial_calls, request.trial_s)


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


def _component_folder(folder: Path, name: str) -> Path:
    """A component's own folder, or that of a system."""
    return folder if (folder / CARD_FILE).exists() else folder / name


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


def _check_replicas(replicas: Mapping[str, int], components: tuple[str, ...]) -> dict[str, int]:
    for name, number in replicas.items():
        if name not in components or not 1 <= number <= MAX_REPLICAS:
            known = ", ".join(components)
            raise InvalidArgument(f"replicas of {name!r} are {number}, must be 1 to {MAX_REPLICAS} of {known}")
    return dict(replicas)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InvalidArgument(f"port {port} on {HOST}: {error.strerror}; choose another one with --port") from error
