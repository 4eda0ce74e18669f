"""One replica behind the orchestrator, and what it last said of itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

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
