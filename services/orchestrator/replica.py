"""One replica behind the orchestrator, and what it last said of itself."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.orchestrator.discovery.place import Place
from services.orchestrator.facts import check_card
from services.orchestrator.routing import Candidate
from services.orchestrator.standing import Standing, Word
from triptych.card import Card
from triptych.errors import TriptychError, Unavailable
from triptych.serving.describe import card_from_proto
from triptych.serving.link import Link
from triptych.status import error_from_rpc
from triptych.v1 import component_pb2, component_pb2_grpc
from triptych.v1 import orchestrator_pb2 as pb

HEALTHS: Final[dict[pb.Health.ValueType, str]] = {
    pb.HEALTH_SERVING: "serving",
    pb.HEALTH_NOT_SERVING: "not_serving",
    pb.HEALTH_UNREACHABLE: "unreachable",
    pb.HEALTH_DRAINING: "draining",
}
STANDINGS: Final[dict[Word, component_pb2.Standing.ValueType]] = {
    "unknown": component_pb2.STANDING_UNSPECIFIED,
    "chained": component_pb2.STANDING_CHAINED,
    "unchained": component_pb2.STANDING_UNCHAINED,
    "trial": component_pb2.STANDING_TRIAL,
    "quarantined": component_pb2.STANDING_QUARANTINED,
}
POLL_TIMEOUT_S: Final = 5.0
GOODBYE_TIMEOUT_S: Final = 0.5


class Replica:
    """One address of one stage, what it last said of itself, and how it stands among the others."""

    def __init__(self, place: Place, open_link: Callable[[], Link], trial_share: float = 1.0) -> None:
        self.stage = place.stage
        self.address = place.address
        self._place = place
        self._link = open_link()
        self._trial_share = trial_share
        self.asked = asyncio.Event()  # once at least
        self.standing = Standing()
        self.health: pb.Health.ValueType = pb.HEALTH_UNREACHABLE
        self.detail = "not polled yet"
        self._generation = ""
        self.description: component_pb2.DescribeResponse | None = None
        self.card: Card | None = None
        self._num_in_flight = 0
        self._num_pinned = 0
        self._num_served = 0
        self._num_others = 0  # requests it had from other callers when last polled

    @property
    def channel(self) -> grpc.aio.Channel:
        """For one call: the next one may take another."""
        return self._link.channel

    async def close(self) -> None:
        """Cancels what still runs."""
        await self._link.close()

    def move(self, place: Place) -> None:
        """What discovery says of the same address now."""
        self._place = place

    def leave(self) -> None:
        """Discovery no longer knows it: it serves what is pinned to it, and nothing new."""
        self._place = replace(self._place, is_leaving=True)

    async def poll(self, orchestrator_id: str = "") -> None:
        """Asks for card, load and health, and says how it stands. Never raises: what goes wrong becomes `health` and
        `detail`."""
        self._link.renew()
        try:
            described = await component_pb2_grpc.ComponentServiceStub(self.channel).Describe(
                component_pb2.DescribeRequest(verdict=self._verdict(orchestrator_id)), timeout=POLL_TIMEOUT_S
            )
            checked = await health_pb2_grpc.HealthStub(self.channel).Check(
                health_pb2.HealthCheckRequest(), timeout=POLL_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            self.mark_unreachable(error.details() or error.code().name)
            return
        finally:
            self.asked.set()
        load = described.load
        self._num_others = max(0, load.num_running + load.num_waiting - self._num_in_flight)
        self.description = described
        self._judge(described, checked.status == health_pb2.HealthCheckResponse.SERVING)

    async def say_goodbye(self, orchestrator_id: str) -> None:
        """So that it need not wait for us when it drains. Never raises."""
        verdict = component_pb2.Verdict(orchestrator_id=orchestrator_id, is_last=True)
        with suppress(grpc.aio.AioRpcError):
            await component_pb2_grpc.ComponentServiceStub(self.channel).Describe(
                component_pb2.DescribeRequest(verdict=verdict), timeout=GOODBYE_TIMEOUT_S
            )

    def mark_unreachable(self, detail: str) -> None:
        self.health, self.detail, self.card, self.description = pb.HEALTH_UNREACHABLE, detail, None, None
        self.standing = Standing()

    @property
    def key(self) -> tuple[str, str]:
        return self.stage, self.address

    @property
    def generation(self) -> str:
        """Its build, as it was last known."""
        return self._generation

    @property
    def share(self) -> float:
        """Of the requests, at most, while another generation could do them."""
        if self.standing.word in ("quarantined", "unchained"):
            return 0.0
        told = self.description
        own = told.share if told is not None and told.generation else 1.0  # a release before shares says nothing
        share = own if self._place.share is None else self._place.share
        return min(share, self._trial_share) if self.standing.word == "trial" else share

    @property
    def is_idle(self) -> bool:
        return self._num_in_flight == self._num_pinned == 0

    @property
    def is_leaving(self) -> bool:
        return self._place.is_leaving

    @property
    def is_open(self) -> bool:
        """To new requests."""
        return self.health == pb.HEALTH_SERVING and not self.is_leaving

    def candidate(self) -> Candidate | None:
        """None while it serves nobody; one that drains still serves the requests pinned to it."""
        if self.card is None or self.health not in (pb.HEALTH_SERVING, pb.HEALTH_DRAINING):
            return None
        load = self._num_in_flight + self._num_others
        return Candidate(self.address, self.card, load, self._num_served, self.generation, self.share)

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """As long as a request may still call it."""
        self._num_pinned += 1
        try:
            yield
        finally:
            self._num_pinned -= 1

    @contextmanager
    def calling(self) -> Iterator[pb.ServedBy]:
        """Counts the call, says who serves it, and turns its gRPC failure into an error naming stage and replica. A
        replica that drops the connection is out until it answers a poll again.
        """
        assert self.description is not None, "only serving replicas are called"
        card, id_, generation = self.description.card, self.description.replica_id, self.generation
        self._num_in_flight += 1
        self._num_served += 1
        try:
            yield pb.ServedBy(
                kind=card.kind,
                name=card.name,
                version=card.version,
                digest=card.digest,
                replica_id=id_,
                generation=generation,
            )
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
        self._generation = described.generation or card.generation
        if described.is_draining:
            self.health, self.detail = pb.HEALTH_DRAINING, "finishes what it has"
        elif is_serving:
            self.health, self.detail = pb.HEALTH_SERVING, ""
        else:
            self.detail = "its probes have not passed yet"
        if not self.is_open:
            self.standing = Standing()

    def _verdict(self, orchestrator_id: str) -> component_pb2.Verdict:
        return component_pb2.Verdict(
            orchestrator_id=orchestrator_id,
            standing=STANDINGS[self.standing.word],
            reason=self.standing.reason,
            num_pinned=self._num_pinned + self._num_in_flight,
        )

    def _translated(self, error: grpc.aio.AioRpcError) -> TriptychError:
        where = f"{self.stage} at {self.address}"
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):  # we never see our own cancel here
            self.mark_unreachable(error.details() or error.code().name)
            return Unavailable(f"{where} went away: {error.details()}", stage=self.stage, replica=self.address)
        translated = error_from_rpc(error)
        translated.args = (f"{where}: {translated}",)
        translated.stage, translated.replica = self.stage, self.address
        return translated
