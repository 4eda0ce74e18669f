"""The processes behind one orchestrator on this machine, and the file that tells it where they are."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from triptych.local.process import Process
from triptych.private_file import write_private

HOST: Final = "127.0.0.1"
DRAIN_TIMEOUT_S: Final = 10


@dataclass(frozen=True)
class Launch:
    """What a component's processes are started with: its own folder, and settings by the names in its config.py."""

    checkpoint: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def flags(self) -> dict[str, str]:
        settings = {f"--{name.replace('_', '-')}": value for name, value in self.settings.items()}
        return {"--checkpoint": str(self.checkpoint), **settings}


class Crew:
    """`members` are those that have to live; who else runs, is on the way in or out."""

    def __init__(self, folder: Path, launches: Mapping[str, Launch], tls_dir: Path | None) -> None:
        """Starts nothing. Logs and address files go to `folder`."""
        self.launches = dict(launches)
        self.members: dict[str, Process] = {}
        self.addresses_file = folder / "addresses.json"
        self._folder = folder
        self._tls_dir = tls_dir
        self._running: dict[str, Process] = {}
        self._addresses: dict[str, str] = {}  # of everybody who ever listened
        self._num_started: dict[str, int] = {}

    def start(self, service: str, launch: Launch) -> Process:
        """A new one, on a free port; no member yet. The first is called as its service, the next ones are numbered."""
        number = self._num_started[service] = self._num_started.get(service, 0) + 1
        name = service if number == 1 else f"{service}-{number}"
        return self._spawn(name, service, {"--port": "0", **launch.flags})

    def start_orchestrator(self, port: int) -> Process:
        flags = {"--port": str(port), "--addresses-file": str(self.addresses_file)}
        process = self.members["orchestrator"] = self._spawn("orchestrator", "orchestrator", flags)
        return process

    def restart(self, name: str) -> Process:
        """A member that is gone, at its old address."""
        service = name.partition("-")[0]
        port = self._addresses[name].rpartition(":")[2]
        if service == "orchestrator":
            return self.start_orchestrator(int(port))
        flags = {"--port": port, **self.launches[service].flags}
        process = self.members[name] = self._spawn(name, service, flags)
        return process

    def of(self, service: str) -> list[Process]:
        """The members that run `service`."""
        return [process for process in self.members.values() if process.service == service]

    def address(self, process: Process) -> str:
        """Empty before it listens; known also once it has ended."""
        if address := process.address:
            self._addresses[process.name] = address
        return self._addresses.get(process.name, "")

    def publish(self, newcomers: Iterable[Process] = (), share: float | None = None) -> None:
        """Tells the orchestrator where all members are, and `newcomers` with their share of the requests."""
        listed: dict[str, list[object]] = {}
        for process in self.members.values():
            if process.service != "orchestrator":
                listed.setdefault(process.service, []).append(self.address(process))
        for process in newcomers:
            entry = {"address": self.address(process), "share": share}
            listed.setdefault(process.service, []).append(entry)
        write_private(self.addresses_file, json.dumps(listed, indent=1).encode())

    def adopt(self, newcomers: Sequence[Process], launches: Mapping[str, Launch]) -> list[Process]:
        """Members from now on, in place of those of the same services, which are returned."""
        services = {process.service for process in newcomers}
        old = [process for service in services for process in self.of(service)]
        kept = {name: process for name, process in self.members.items() if process not in old}
        self.members = kept | {process.name: process for process in newcomers}
        self.launches |= launches
        return old

    def end(self, processes: Iterable[Process], timeout_s: float) -> None:
        """SIGTERM to all, SIGKILL to those left after that long."""
        ending = list(processes)
        deadline_s = time.monotonic() + timeout_s
        for process in ending:
            process.terminate()
        for process in ending:
            process.wait(deadline_s)
            self._running.pop(process.name, None)

    def end_all(self) -> None:
        """The orchestrator first, so that it can finish."""
        try:
            for is_first in (True, False):
                group = [p for p in self._running.values() if (p.service == "orchestrator") == is_first]
                self.end(group, DRAIN_TIMEOUT_S)
        finally:
            for process in self._running.values():
                process.kill()
            self._running.clear()
            self.members.clear()

    def _spawn(self, name: str, service: str, flags: Mapping[str, str]) -> Process:
        flags = {"--host": HOST, "--drain-timeout-s": str(DRAIN_TIMEOUT_S), **flags}
        if self._tls_dir is not None:
            flags["--tls-dir"] = str(self._tls_dir)
        process = self._running[name] = Process(name, service, self._folder, flags)
        return process
