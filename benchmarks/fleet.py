"""Two replicas of each stage and an orchestrator, as processes of this machine that one may do anything to."""

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import grpc

from benchmarks.circumstances import ROOT
from benchmarks.proxy import Proxy
from triptych.client import Client
from triptych.errors import TriptychError, Unavailable
from triptych.v1 import component_pb2, component_pb2_grpc
from triptych.v1 import orchestrator_pb2 as pb

HOST: Final = "127.0.0.1"
STAGES: Final = ("encoder", "llm", "decoder")
NUM_REPLICAS: Final = 2
CALLS: Final = re.compile(r"^triptych_orchestrator_stage_calls_total\{(.*)\} (\S+)", re.MULTILINE)
LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
START_TIMEOUT_S: Final = 300.0
SMALL_QUEUES: Final = {
    "encoder": ("--max-queue-size", "4"),
    "llm": ("--max-num-seqs", "4", "--max-queue-size", "2"),
    "decoder": ("--max-num-requests", "4", "--max-queue-size", "2"),
}


@dataclass
class Member:
    """One process. `address` is where it listens, `seen_at` where the orchestrator finds it."""

    name: str
    command: tuple[str, ...]
    address: str
    seen_at: str
    process: subprocess.Popen[bytes] = field(init=False)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def rss_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Fleet:
    """A context manager. The first replica of each stage is seen through a proxy."""

    def __init__(self, checkpoint: Path, folder: Path, num_threads: int = 1) -> None:
        """Logs go to `folder`. Queues are small, so that they can be filled."""
        self._folder = folder
        self._env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(num_threads)}
        self._jump_file = folder / "clock_jump"
        self.proxies: dict[str, Proxy] = {}
        self.members: dict[str, Member] = {}
        for stage in STAGES:
            for index in range(NUM_REPLICAS):
                flags = ("--checkpoint", str(checkpoint / stage), "--num-threads", str(num_threads))
                self._add(f"{stage}-{index}", stage, *flags, *SMALL_QUEUES[stage])
            self.proxies[stage] = Proxy(self.members[f"{stage}-0"].address)
            self.members[f"{stage}-0"].seen_at = self.proxies[stage].address
        addresses = [
            part for stage in STAGES for part in (f"--{stage}-addresses", ",".join(m.seen_at for m in self.of(stage)))
        ]
        # Every request is to need every stage: no embedding is kept.
        flags = ("--embedding-cache-bytes", "0", "--max-num-requests", "8", "--max-queue-size", "8")
        self._metrics_port = _free_port()
        flags += ("--metrics-port", str(self._metrics_port))
        self._add("orchestrator", "orchestrator", *addresses, *flags)

    def of(self, stage: str) -> list[Member]:
        return [self.members[f"{stage}-{index}"] for index in range(NUM_REPLICAS)]

    @property
    def address(self) -> str:
        return self.members["orchestrator"].address

    def calls_that_failed(self) -> Counter[str]:
        """The orchestrator's calls since its start that did not end well, by stage and status."""
        with urllib.request.urlopen(f"http://{HOST}:{self._metrics_port}/metrics", timeout=10) as response:
            found = CALLS.findall(response.read().decode())
        counted: Counter[str] = Counter()
        for labels, value in found:
            of = dict(LABEL.findall(labels))
            if of["status"] not in ("OK", "CANCELLED"):
                counted[f"{of['stage']} {of['status']}"] += int(float(value))
        return counted

    def start(self, name: str) -> None:
        member = self.members[name]
        with (self._folder / f"{name}.log").open("ab") as log:
            member.process = subprocess.Popen(
                member.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env, cwd=ROOT
            )

    def await_busy(self, name: str, seconds: float = 5.0) -> None:
        """Until it is at work: a fault is to hit something. Returns after `seconds` even so."""
        deadline = time.monotonic() + seconds
        with grpc.insecure_channel(self.members[name].address) as channel:
            stub = component_pb2_grpc.ComponentServiceStub(channel)
            while time.monotonic() < deadline:
                if stub.Describe(component_pb2.DescribeRequest(), timeout=10).load.num_running:
                    return

    def kill(self, name: str) -> None:
        """SIGKILL: what the kernel does to a process that takes too much memory, too."""
        self.members[name].process.kill()
        self.members[name].process.wait()

    def health(self, client: Client) -> dict[str, "pb.Health.ValueType"]:
        """Of each component, as the orchestrator sees it. Empty while there is none."""
        try:
            found = {replica.address: replica.health for replica in client.components().replicas}
        except TriptychError:
            return {}
        return {name: found[m.seen_at] for name, m in self.members.items() if m.seen_at in found}

    def await_serving(self) -> None:
        """Raises Unavailable when not all serve in time, TriptychError when one has ended."""
        deadline = time.monotonic() + START_TIMEOUT_S
        with Client(self.address, timeout_s=5) as client:
            while set(health := self.health(client).values()) != {pb.HEALTH_SERVING}:
                for name, member in self.members.items():
                    if (code := member.process.poll()) is not None:
                        raise TriptychError(f"{name} ended with {code}, see {self._folder / name}.log")
                if time.monotonic() > deadline:
                    raise Unavailable(f"not all serve within {START_TIMEOUT_S:g} s: {list(health)}")
                time.sleep(0.05)

    def can_jump(self) -> bool:
        """Whether clocks can be made to jump: takes a C compiler. Before the start."""
        compiler = shutil.which("cc")
        if compiler is None:
            return False
        library = self._folder / "clock_jump.so"
        source = Path(__file__).with_name("clock_jump.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self.jump(0)
        self._env |= {"LD_PRELOAD": str(library), "CLOCK_JUMP_FILE": str(self._jump_file)}
        return True

    def jump(self, seconds: int) -> None:
        """Sets every process's wall clock that far off."""
        with self._jump_file.open("r+b" if self._jump_file.exists() else "wb") as file:
            file.write(struct.pack("q", seconds))

    def _add(self, name: str, service: str, *flags: str) -> None:
        address = f"{HOST}:{_free_port()}"
        port = address.rpartition(":")[2]
        command = (sys.executable, "-m", f"services.{service}", "--port", port, "--drain-timeout-s", "1", *flags)
        self.members[name] = Member(name, command, address, address)

    def __enter__(self) -> Self:
        try:
            for name in self.members:
                self.start(name)
            self.await_serving()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        for member in self.members.values():
            if hasattr(member, "process"):
                member.process.kill()
                member.process.wait()
        for proxy in self.proxies.values():
            proxy.__exit__()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
