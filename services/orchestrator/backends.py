"""The replicas behind the orchestrator: a channel each, polled for card, health and load. A replica that is missing at
start or dies later is simply not a candidate until it answers again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from services.orchestrator.attempts import Attempts
from services.orchestrator.replica import Replica
from services.orchestrator.resolve import resolve
from services.orchestrator.routing import Candidate
from triptych.serving.link import Link
from triptych.tls import Certificates, TlsFiles

STAGES: Final = ("encoder", "llm", "decoder")


class Backends:
    """All replicas by stage, kept up to date in the background between `start` and `stop`."""

    def __init__(
        self,
        addresses: Mapping[str, Sequence[str]],
        poll_interval_ms: float,
        max_message_bytes: int,
        tls: TlsFiles | None = None,
        silence_ms: float = 700,
    ) -> None:
        """`addresses`: stage -> "host:port"s; a name that resolves to several addresses is that many replicas. With
        `tls` each must show a certificate for that name. Raises InvalidArgument when the files cannot be used. A
        replica that is asked and says nothing for `silence_ms` is taken for dead."""
        self._certificates = Certificates(tls) if tls is not None else None
        self._addresses = addresses
        self._poll_interval_s = poll_interval_ms / 1000
        self._silence_s = silence_ms / 1000
        self._max_message_bytes = max_message_bytes
        self._replicas: dict[tuple[str, str], Replica] = {}
        self._watchers: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._resolver: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns once every replica has been asked once; a missing one is no failure."""
        await self._resolve()
        await asyncio.gather(*(replica.poll() for replica in self._replicas.values()))
        self._resolver = asyncio.create_task(self._keep_resolving())

    async def stop(self) -> None:
        tasks = [*self._watchers.values(), *([self._resolver] if self._resolver else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(replica.close() for replica in self._replicas.values()))

    def replicas(self, stage: str) -> list[Replica]:
        return [replica for (kind, _), replica in self._replicas.items() if kind == stage]

    def candidates(self, stage: str) -> list[Candidate]:
        """Those that serve now."""
        return [c for replica in self.replicas(stage) if (c := replica.candidate()) is not None]

    def attempts(self, candidate: Candidate) -> Attempts:
        return Attempts(self.replicas(candidate.card.kind), candidate)

    async def _keep_resolving(self) -> None:
        while True:
            await asyncio.sleep(self._poll_interval_s)
            await self._resolve()

    async def _resolve(self) -> None:
        """Starts watching addresses that appeared, drops those that are gone from their name once idle."""
        found = [
            (stage, address, name.rpartition(":")[0])
            for stage in STAGES
            for name in self._addresses.get(stage, ())
            for address in await resolve(name)
        ]
        for stage, address, name in found:
            if (key := (stage, address)) not in self._replicas:
                self._replicas[key] = Replica(stage, address, partial(self._open_link, address, name), self._silence_s)
                self._watchers[key] = asyncio.create_task(self._watch(self._replicas[key]))
        for key in self._replicas.keys() - {(stage, address) for stage, address, _ in found}:
            if self._replicas[key].is_idle:
                await self._forget(key)

    async def _watch(self, replica: Replica) -> None:
        while True:
            await asyncio.sleep(self._poll_interval_s)
            await replica.poll()

    async def _forget(self, key: tuple[str, str]) -> None:
        watcher = self._watchers.pop(key)
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher
        await self._replicas.pop(key).close()

    def _open_link(self, address: str, server_name: str) -> Link:
        return Link(address, self._max_message_bytes, self._certificates, server_name)
