"""The replicas behind the orchestrator: a channel each, polled for card, health and load. A replica that is missing at
start or dies later is simply not a candidate until it answers again.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.orchestrator.facts import check_card
from services.orchestrator.resolve import resolve
from services.orchestrator.routing import Candidate
from triptych.card import Card
from triptych.errors import TriptychError, Unavailable
from triptych.serving.describe import card_from_proto
from triptych.serving.link import Link
from triptych.status import error_from_rpc
from triptych.tls import Certificates, TlsFiles
from triptych.v1 import component_pb2, component_pb2_grpc
from triptych.v1 import orchestrator_pb2 as pb

STAGES: Final = ("encoder", "llm", "decoder")
HEALTHS: Final[dict[pb.Health.ValueType, str]] = {
    pb.HEALTH_SERVING: "serving",
    pb.HEALTH_NOT_SERVING: "not_serving",
    pb.HEALTH_UNREACHABLE: "unreachable",
}
POLL_TIMEOUT_S: Final = 5.0


class Replica:
    """One address of one stage, and what it last said of itself."""

    def __init__(self, stage: str, address: str, open_link: Callable[[], Link]) -> None:
        self.stage = stage
        self.address = address
        self._link = open_link()
        self.health: pb.Health.ValueType = pb.HEALTH_UNREACHABLE
        self.detail = "not polled yet"
        self.description: component_pb2.DescribeResponse | None = None
        self.card: Card | None = None
        self._num_in_flight = 0
        self._num_served = 0
        self._num_others = 0  # requests it had from other callers when last polled

    @property
    def channel(self) -> grpc.aio.Channel:
        """For one call: the next one may take another."""
        return self._link.channel

    async def close(self) -> None:
        """Cancels what still runs."""
        await self._link.close()

    async def poll(self) -> None:
        """Asks for card, load and health. Never raises: what goes wrong becomes `health` and `detail`."""
        self._link.renew()
        try:
            described = await component_pb2_grpc.ComponentServiceStub(self.channel).Describe(
                component_pb2.DescribeRequest(), timeout=POLL_TIMEOUT_S
            )
            checked = await health_pb2_grpc.HealthStub(self.channel).Check(
                health_pb2.HealthCheckRequest(), timeout=POLL_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            self.mark_unreachable(error.details() or error.code().name)
            return
        load = described.load
        self._num_others = max(0, load.num_running + load.num_waiting - self._num_in_flight)
        self.description = described
        self._judge(described, checked.status == health_pb2.HealthCheckResponse.SERVING)

    def mark_unreachable(self, detail: str) -> None:
        self.health, self.detail, self.card, self.description = pb.HEALTH_UNREACHABLE, detail, None, None

    @property
    def digest(self) -> str:
        """Of its card; empty while it is unreachable."""
        return self.card.digest if self.card else ""

    @property
    def is_idle(self) -> bool:
        return self._num_in_flight == 0

    def candidate(self) -> Candidate | None:
        """None while it is not serving."""
        if self.card is None or self.health != pb.HEALTH_SERVING:
            return None
        return Candidate(self.address, self.card, self._num_in_flight + self._num_others, self._num_served)

    @contextmanager
    def calling(self) -> Iterator[pb.ServedBy]:
        """Counts the call, says who serves it, and turns its gRPC failure into an error naming stage and replica. A
        replica that drops the connection is out until it answers a poll again.
        """
        assert self.description is not None, "only serving replicas are called"
        card, id_ = self.description.card, self.description.replica_id
        self._num_in_flight += 1
        self._num_served += 1
        try:
            yield pb.ServedBy(kind=card.kind, name=card.name, version=card.version, digest=card.digest, replica_id=id_)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error
        finally:
            self._num_in_flight -= 1

    def _judge(self, described: component_pb2.DescribeResponse, is_serving: bool) -> None:
        self.card, self.health = None, pb.HEALTH_NOT_SERVING
        try:
            card = card_from_proto(described.card)
            check_card(card, self.stage)
        except TriptychError as error:
            self.detail = str(error)
            return
        self.card = card
        self.health = pb.HEALTH_SERVING if is_serving else pb.HEALTH_NOT_SERVING
        self.detail = "" if is_serving else "its probes have not passed yet, or it is draining"

    def _translated(self, error: grpc.aio.AioRpcError) -> TriptychError:
        where = f"{self.stage} at {self.address}"
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):  # we never see our own cancel here
            self.mark_unreachable(error.details() or error.code().name)
            return Unavailable(f"{where} went away: {error.details()}", stage=self.stage, replica=self.address)
        translated = error_from_rpc(error)
        translated.args = (f"{where}: {translated}",)
        translated.stage, translated.replica = self.stage, self.address
        return translated


class Attempts:
    """The replicas one stage of one request may use: the chosen one, then others with the same card."""

    def __init__(self, replicas: Sequence[Replica], chosen: Candidate) -> None:
        """Raises Unavailable when the chosen replica has gone meanwhile and no other has its card."""
        self._replicas = replicas
        self._digest = chosen.card.digest
        self._tried: set[str] = set()
        gone = f"{chosen.card.label} at {chosen.address} went away, and no other replica serves it"
        self.replica = self._next(Unavailable(gone, stage=chosen.card.kind, retry_after_ms=1000), chosen.address)

    def advance(self, error: Unavailable) -> None:
        """Moves on to the least loaded replica not tried yet. Raises `error` when there is none."""
        self.replica = self._next(error)

    def _next(self, error: Unavailable, preferred: str = "") -> Replica:
        usable = [
            (address != preferred, candidate.load, candidate.num_served, index)
            for index, replica in enumerate(self._replicas)
            if (address := replica.address) not in self._tried
            and (candidate := replica.candidate()) is not None
            and candidate.card.digest == self._digest
        ]
        if not usable:
            raise error
        replica = self._replicas[min(usable)[3]]
        self._tried.add(replica.address)
        return replica


class Backends:
    """All replicas by stage, kept up to date in the background between `start` and `stop`."""

    def __init__(
        self,
        addresses: Mapping[str, Sequence[str]],
        poll_interval_ms: float,
        max_message_bytes: int,
        tls: TlsFiles | None = None,
    ) -> None:
        """`addresses`: stage -> "host:port"s; a name that resolves to several addresses is that many replicas. With
        `tls` each must show a certificate for that name. Raises InvalidArgument when the files cannot be used."""
        self._certificates = Certificates(tls) if tls is not None else None
        self._addresses = addresses
        self._poll_interval_s = poll_interval_ms / 1000
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
                self._replicas[key] = Replica(stage, address, partial(self._open_link, address, name))
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
