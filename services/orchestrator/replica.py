"""One replica behind the orchestrator: what it last said of itself, and the calls that run on it."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.orchestrator.discovery.place import Place
from services.orchestrator.facts import check_card
from services.orchestrator.hearing import Hearing
from services.orchestrator.routing import Candidate
from services.orchestrator.standing import Standing, Word
from triptych.card import Card
from triptych.errors import TriptychError, Unavailable
from triptych.serving.describe import card_from_proto
from triptych.serving.link import Link
from triptych.status import error_from_rpc
from triptych.v1 import component_pb2, component_pb2_grpc
from triptych.v1 import orchestrator_pb2 as pb

log = logging.getLogger(__name__)

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
# What gRPC says in place of the replica's own status when that arrives while a message of ours is on its way out.
CORE_FAILED: Final = "Internal error from Core"
GOODBYE_TIMEOUT_S: Final = 0.5
MALFORMED: Final = "malformed answer"


@dataclass(eq=False)
class Ongoing:
    """A call to a replica, from before it starts to its end."""

    served_by: pb.ServedBy
    call: Any = None  # grpc.aio.Call, once it has started
    is_lost: bool = False  # ended by us, for its replica is silent


class Replica:
    """One address of one stage: what it last said of itself, how it stands among the others, and the calls that run on
    it."""

    def __init__(
        self,
        place: Place,
        open_link: Callable[[], Link],
        silence_s: Callable[[], float],
        orchestrator_id: str = "",
        trial_share: float = 1.0,
    ) -> None:
        """One that says nothing for `silence_s()` although it was asked is taken for dead."""
        self.stage = place.stage
        self.address = place.address
        self._place = place
        self._link = open_link()
        self.hearing = Hearing(silence_s)
        self._orchestrator_id = orchestrator_id
        self._trial_share = trial_share
        self._ongoing: set[Ongoing] = set()
        self.asked = asyncio.Event()  # once at least
        self.standing = Standing()
        self.health: pb.Health.ValueType = pb.HEALTH_UNREACHABLE
        self.detail = "not polled yet"
        self._generation = ""
        self.description: component_pb2.DescribeResponse | None = None
        self.card: Card | None = None
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

    async def poll(self) -> None:
        """Asks for card, load and health, and says how it stands. What goes wrong with the replica becomes `health` and
        `detail`; only a mistake of ours is raised. When there is no answer, and nothing else is heard either, the calls
        that run here are given up: a process that hangs keeps its connections open.
        """
        try:
            self._link.renew()
            described, checked = await self._ask()
        except grpc.aio.AioRpcError as error:
            self.mark_unreachable(error.details() or error.code().name)
            return
        except TimeoutError:
            self.mark_unreachable(f"silent for {self.hearing.silence_s():g} s")
            self._give_up_calls()
            return
        finally:
            self.asked.set()
        if described is None or checked is None:
            if self.detail != MALFORMED:  # said once, not at every poll
                log.warning(MALFORMED, extra={"stage": self.stage, "replica": self.address})
            self.mark_unreachable(MALFORMED)
            return
        load = described.load
        self._num_others = max(0, load.num_running + load.num_waiting - self.num_in_flight)
        self.description = described
        self._judge(described, checked.status == health_pb2.HealthCheckResponse.SERVING)

    async def _ask(self) -> tuple[component_pb2.DescribeResponse | None, health_pb2.HealthCheckResponse | None]:
        """None for an answer that is no such message: gRPC raises nothing then."""
        asked = component_pb2.DescribeRequest(verdict=self._verdict())
        described = await self.hearing.answer(component_pb2_grpc.ComponentServiceStub(self.channel).Describe(asked))
        checked = await self.hearing.answer(
            health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest())
        )
        return described, checked

    async def say_goodbye(self) -> None:
        """So that it need not wait for us when it drains. Never raises."""
        verdict = component_pb2.Verdict(orchestrator_id=self._orchestrator_id, is_last=True)
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
    def replica_id(self) -> str:
        """Of its process; empty while it is unreachable."""
        return self.description.replica_id if self.description else ""

    @property
    def is_idle(self) -> bool:
        return not self._ongoing and self._num_pinned == 0

    @property
    def num_in_flight(self) -> int:
        """Of our own calls."""
        return len(self._ongoing)

    @property
    def load(self) -> int:
        """Requests it has, those of other callers included."""
        return self.num_in_flight + self._num_others

    @property
    def is_leaving(self) -> bool:
        return self._place.is_leaving

    @property
    def is_serving(self) -> bool:
        return self.card is not None and self.health == pb.HEALTH_SERVING

    @property
    def is_open(self) -> bool:
        """To new requests."""
        return self.is_serving and not self.is_leaving

    def candidate(self) -> Candidate | None:
        """None while it serves nobody; one that drains still serves the requests pinned to it."""
        if self.card is None or self.health not in (pb.HEALTH_SERVING, pb.HEALTH_DRAINING):
            return None
        return Candidate(self.address, self.card, self.load, self._num_served, self.generation, self.share)

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """As long as a request may still call it."""
        self._num_pinned += 1
        try:
            yield
        finally:
            self._num_pinned -= 1

    @contextmanager
    def calling(self) -> Iterator[Ongoing]:
        """Counts the call, says who serves it, and turns its gRPC failure into an error naming stage and replica. A
        replica that drops the connection is out until it answers a poll again.
        """
        if self.description is None:
            raise self._went_away(self.detail)
        card = self.description.card
        served_by = pb.ServedBy(
            kind=card.kind,
            name=card.name,
            version=card.version,
            digest=card.digest,
            replica_id=self.description.replica_id,
            generation=self.generation,
        )
        ongoing = Ongoing(served_by)
        self._ongoing.add(ongoing)
        self._num_served += 1
        try:
            yield ongoing
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not ongoing.is_lost or (task is not None and task.cancelling()):
                raise
            raise self._went_away(self.detail or "silent") from None
        finally:
            self._ongoing.discard(ongoing)

    def _give_up_calls(self) -> None:
        for ongoing in self._ongoing:
            if ongoing.call is not None:
                ongoing.is_lost = True
                ongoing.call.cancel()

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

    def _verdict(self) -> component_pb2.Verdict:
        return component_pb2.Verdict(
            orchestrator_id=self._orchestrator_id,
            standing=STANDINGS[self.standing.word],
            reason=self.standing.reason,
            num_pinned=self._num_pinned + self.num_in_flight,
        )

    def _translated(self, error: grpc.aio.AioRpcError) -> TriptychError:
        where = f"{self.stage} at {self.address}"
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):  # we never see our own cancel here
            self.mark_unreachable(error.details() or error.code().name)
            return self._went_away(error.details() or error.code().name)
        if error.code() == grpc.StatusCode.INTERNAL and error.details() == CORE_FAILED:
            why = "the call ended while its request was being sent"
            return Unavailable(f"{where}: {why}", stage=self.stage, replica=self.address)
        translated = error_from_rpc(error)
        translated.args = (f"{where}: {translated}",)
        translated.stage, translated.replica = self.stage, self.address
        return translated

    def _went_away(self, why: str) -> Unavailable:
        return Unavailable(f"{self.stage} at {self.address} went away: {why}", stage=self.stage, replica=self.address)
