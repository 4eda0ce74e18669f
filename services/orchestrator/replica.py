"""One replica behind the orchestrator: what it last said of itself, and the calls that run on it."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.orchestrator.facts import check_card
from services.orchestrator.routing import Candidate
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
}
WRITE_FAILED: Final = "Internal error from Core"  # grpc.aio's word for a message to a call that is over already
LOOK_S: Final = 0.1  # how often a silence is looked at while it lasts
MAX_STALL_S: Final = 0.3  # a timer that is later than this tells of our own event loop, not of who is asked

T = TypeVar("T")


@dataclass(eq=False)
class Ongoing:
    """A call to a replica, from before it starts to its end."""

    served_by: pb.ServedBy
    call: Any = None  # grpc.aio.Call, once it has started
    is_lost: bool = False  # ended by us, for its replica is silent


class Replica:
    """One address of one stage, what it last said of itself, and the calls that run on it."""

    def __init__(self, stage: str, address: str, open_link: Callable[[], Link], silence_s: Callable[[], float]) -> None:
        """One that says nothing for `silence_s()` although it was asked is taken for dead."""
        self.stage = stage
        self.address = address
        self._link = open_link()
        self._silence_s = silence_s
        self._heard = 0.0  # when it last said anything, in any call
        self._ongoing: set[Ongoing] = set()
        self.health: pb.Health.ValueType = pb.HEALTH_UNREACHABLE
        self.detail = "not polled yet"
        self.description: component_pb2.DescribeResponse | None = None
        self.card: Card | None = None
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
        """Asks for card, load and health. Never raises: what goes wrong becomes `health` and `detail`. When there is no
        answer, and nothing else is heard either, the calls that run here are given up: a process that hangs keeps its
        connections open.
        """
        self._link.renew()
        try:
            described = await self._answer(
                component_pb2_grpc.ComponentServiceStub(self.channel).Describe(component_pb2.DescribeRequest())
            )
            checked = await self._answer(
                health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest())
            )
        except grpc.aio.AioRpcError as error:
            self.mark_unreachable(error.details() or error.code().name)
            return
        except TimeoutError:
            self.mark_unreachable(f"silent for {self._silence_s():g} s")
            self._give_up_calls()
            return
        load = described.load
        self._num_others = max(0, load.num_running + load.num_waiting - self.num_in_flight)
        self.description = described
        self._judge(described, checked.status == health_pb2.HealthCheckResponse.SERVING)

    def listened(self, call: AsyncIterable[T]) -> AsyncIterator[T]:
        """The messages of one of its calls: each is a sign of life."""
        return _Listened(aiter(call), self._hear)

    def _hear(self) -> None:
        self._heard = time.monotonic()

    def mark_unreachable(self, detail: str) -> None:
        self.health, self.detail, self.card, self.description = pb.HEALTH_UNREACHABLE, detail, None, None

    @property
    def digest(self) -> str:
        """Of its card; empty while it is unreachable."""
        return self.card.digest if self.card else ""

    @property
    def replica_id(self) -> str:
        """Of its process; empty while it is unreachable."""
        return self.description.replica_id if self.description else ""

    @property
    def is_idle(self) -> bool:
        return not self._ongoing

    @property
    def num_in_flight(self) -> int:
        """Of our own calls."""
        return len(self._ongoing)

    @property
    def load(self) -> int:
        """Requests it has, those of other callers included."""
        return self.num_in_flight + self._num_others

    @property
    def is_serving(self) -> bool:
        return self.card is not None and self.health == pb.HEALTH_SERVING

    def candidate(self) -> Candidate | None:
        """None while it is not serving."""
        if self.card is None or not self.is_serving:
            return None
        return Candidate(self.address, self.card, self.load, self._num_served)

    @contextmanager
    def calling(self) -> Iterator[Ongoing]:
        """Counts the call, says who serves it, and turns its gRPC failure into an error naming stage and replica. A
        replica that drops the connection is out until it answers a poll again.
        """
        if self.description is None:
            raise self._went_away(self.detail)
        card, id_ = self.description.card, self.description.replica_id
        ongoing = Ongoing(
            pb.ServedBy(kind=card.kind, name=card.name, version=card.version, digest=card.digest, replica_id=id_)
        )
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

    async def _answer(self, call: Awaitable[T]) -> T:
        """Raises TimeoutError after `silence_s` in which nothing was heard. Time in which our own event loop stood
        still is nobody's silence.
        """
        asking = asyncio.ensure_future(call)
        asked = time.monotonic()
        try:
            while not asking.done():
                due = min(max(asked, self._heard) + self._silence_s(), time.monotonic() + LOOK_S)
                await asyncio.wait((asking,), timeout=max(0.0, due - time.monotonic()))
                now = time.monotonic()
                if now - due > MAX_STALL_S:
                    asked = now
                elif not asking.done() and max(asked, self._heard) + self._silence_s() <= now:
                    raise TimeoutError
            self._hear()
            return asking.result()
        finally:
            asking.cancel()

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
        self.health = pb.HEALTH_SERVING if is_serving else pb.HEALTH_NOT_SERVING
        self.detail = "" if is_serving else "its probes have not passed yet, or it is draining"

    def _translated(self, error: grpc.aio.AioRpcError) -> TriptychError:
        where = f"{self.stage} at {self.address}"
        is_cut_off = error.code() is grpc.StatusCode.INTERNAL and error.details() == WRITE_FAILED
        # We never see our own cancel here.
        if is_cut_off or error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            self.mark_unreachable(error.details() or error.code().name)
            return self._went_away(error.details() or error.code().name)
        translated = error_from_rpc(error)
        translated.args = (f"{where}: {translated}",)
        translated.stage, translated.replica = self.stage, self.address
        return translated

    def _went_away(self, why: str) -> Unavailable:
        return Unavailable(f"{self.stage} at {self.address} went away: {why}", stage=self.stage, replica=self.address)


class _Listened(Generic[T]):
    """No generator: one that is left half-way would wait for the garbage collector."""

    def __init__(self, messages: AsyncIterator[T], hear: Callable[[], None]) -> None:
        self._messages = messages
        self._hear = hear

    def __aiter__(self) -> "_Listened[T]":
        return self

    async def __anext__(self) -> T:
        message = await anext(self._messages)
        self._hear()
        return message
