"""The replicas behind the orchestrator: a channel each, polled for card, health and load. A replica that is missing at
start or dies later is simply not a candidate until it answers again.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from services.orchestrator.attempts import Attempts
from services.orchestrator.budget import RetryBudget
from services.orchestrator.hedging import RecentTimes
from services.orchestrator.outliers import Outliers
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
        silence_alone_ms: float = 5000,
        budget: RetryBudget | None = None,
    ) -> None:
        """`addresses`: stage -> "host:port"s; a name that resolves to several addresses is that many replicas. With
        `tls` each must show a certificate for that name. Raises InvalidArgument when the files cannot be used. A
        replica that is asked and says nothing for `silence_ms` is taken for dead; for `silence_alone_ms` where no other
        one could take over, and an error too many is worse than waiting. `budget` is for all retries."""
        self._certificates = Certificates(tls) if tls is not None else None
        self._addresses = addresses
        self._poll_interval_s = poll_interval_ms / 1000
        self._silence_s = silence_ms / 1000
        self._silence_alone_s = max(silence_ms, silence_alone_ms) / 1000
        self.budget = budget or RetryBudget(ratio=0.2, burst=128)
        self.outliers = Outliers()
        self.encode_times = RecentTimes()
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
        """Those that serve now, without outliers."""
        serving = self._serving(stage)
        ejected = self._ejected(serving)
        return [candidate for candidate in serving if candidate.address not in ejected]

    def num_outliers(self, stage: str) -> int:
        """Serving replicas that are left out for now."""
        return len(self._ejected(self._serving(stage)))

    def attempts(self, candidate: Candidate) -> Attempts:
        stage = candidate.card.kind
        return Attempts(self.replicas(stage), candidate, self.budget, self._ejected(self._serving(stage)))

    def _serving(self, stage: str) -> list[Candidate]:
        return [c for replica in self.replicas(stage) if (c := replica.candidate()) is not None]

    def _ejected(self, serving: Sequence[Candidate]) -> set[str]:
        by_card: dict[str, list[str]] = {}
        for candidate in serving:
            by_card.setdefault(candidate.card.digest, []).append(candidate.address)
        now = time.monotonic()
        return {address for alike in by_card.values() for address in self.outliers.ejected(alike, now)}

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
                self._replicas[key] = Replica(
                    stage, address, partial(self._open_link, address, name), partial(self._silence_of, key)
                )
                self._watchers[key] = asyncio.create_task(self._watch(self._replicas[key]))
        for key in self._replicas.keys() - {(stage, address) for stage, address, _ in found}:
            if self._replicas[key].is_idle:
                await self._forget(key)

    async def _watch(self, replica: Replica) -> None:
        known = ""
        while True:
            await asyncio.sleep(self._poll_interval_s)
            known = replica.replica_id or known
            await replica.poll()
            if replica.replica_id and replica.replica_id != known:
                self.outliers.forget(replica.address)

    def _silence_of(self, key: tuple[str, str]) -> float:
        """How long this replica may say nothing, in seconds."""
        digest = self._replicas[key].digest if key in self._replicas else ""
        has_peer = any(
            replica.digest == digest and replica.is_serving for other, replica in self._replicas.items() if other != key
        )
        return self._silence_s if digest and has_peer else self._silence_alone_s

    async def _forget(self, key: tuple[str, str]) -> None:
        watcher = self._watchers.pop(key)
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher
        await self._replicas.pop(key).close()
        self.outliers.forget(key[1])

    def _open_link(self, address: str, server_name: str) -> Link:
        return Link(address, self._max_message_bytes, self._certificates, server_name)
