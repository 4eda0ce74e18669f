"""What a replica tells about itself: the card as a message and back, and the servicer behind Describe."""

import json
import secrets
from collections.abc import Callable
from typing import Any, Final

import grpc

from triptych import strict_json
from triptych.card import Card, Port
from triptych.errors import CheckpointError
from triptych.serving.batching import Load
from triptych.serving.orchestrators import Orchestrators, Verdict
from triptych.v1 import component_pb2 as pb
from triptych.v1 import component_pb2_grpc

IS_CHAINED: Final[dict[pb.Standing.ValueType, bool]] = {
    pb.STANDING_CHAINED: True,
    pb.STANDING_UNCHAINED: False,
    pb.STANDING_TRIAL: False,
    pb.STANDING_QUARANTINED: False,
}
SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["ComponentService"].full_name


def new_replica_id() -> str:
    """Unguessable, new at every process start."""
    return secrets.token_hex(8)


def card_to_proto(card: Card) -> pb.Card:
    """Probes and exports stay behind: they concern the replica alone."""
    return pb.Card(
        kind=card.kind,
        name=card.name,
        version=card.version,
        digest=card.digest,
        inputs=[_port_to_proto(port) for port in card.inputs],
        outputs=[_port_to_proto(port) for port in card.outputs],
        made_by_json=json.dumps(card.made_by),
        facts_json=json.dumps(card.facts),
    )


def card_from_proto(message: pb.Card) -> Card:
    """Raises CheckpointError naming the component and the field when a replica sent something malformed."""
    try:
        return Card(
            kind=message.kind,
            name=message.name,
            version=message.version,
            digest=message.digest,
            inputs=tuple(_port_from_proto(port) for port in message.inputs),
            outputs=tuple(_port_from_proto(port) for port in message.outputs),
            made_by=_object(message.made_by_json, "made_by_json"),
            facts=_object(message.facts_json, "facts_json"),
        )
    except ValueError as error:
        raise CheckpointError(f"card of {message.kind} {message.name} {message.version}: {error}") from error


class ComponentServicer(component_pb2_grpc.ComponentServiceServicer):
    """Answers Describe, also before the replica is ready; `probe_cosine` is set once the probes have run. What
    orchestrators say when they ask goes to `orchestrators`."""

    def __init__(
        self,
        card: Card,
        load_fn: Callable[[], Load],
        replica_id: str,
        backend: str,
        device: str,
        dtype: str,
        probe_cosine: float = 0.0,
        *,
        share: float = 1.0,
        generation: str = "",
        orchestrators: Orchestrators | None = None,
    ) -> None:
        self._card = card_to_proto(card)
        self._load_fn = load_fn
        self._facts = {"replica_id": replica_id, "backend": backend, "device": device, "dtype": dtype}
        self._share = share
        self._generation = generation or card.generation
        self._orchestrators = orchestrators or Orchestrators()
        self.probe_cosine = probe_cosine

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers with `server`; its name is SERVICE_NAME."""
        component_pb2_grpc.add_ComponentServiceServicer_to_server(self, server)

    async def Describe(self, request: pb.DescribeRequest, context: object) -> pb.DescribeResponse:
        if request.HasField("verdict"):
            await self._orchestrators.hear(_verdict_from_proto(request.verdict))
        load = self._load_fn()
        return pb.DescribeResponse(
            card=self._card,
            load=pb.Load(num_running=load.num_running, num_waiting=load.num_waiting, max_waiting=load.max_waiting),
            probe_cosine=self.probe_cosine,
            share=self._share,
            generation=self._generation,
            is_draining=self._orchestrators.is_draining,
            **self._facts,
        )


def _verdict_from_proto(verdict: pb.Verdict) -> Verdict:
    is_chained = IS_CHAINED.get(verdict.standing)
    return Verdict(verdict.orchestrator_id, is_chained, verdict.reason, verdict.num_pinned, verdict.is_last)


def _port_to_proto(port: Port) -> pb.Port:
    return pb.Port(
        name=port.name, type=port.type, space=port.space, dtype=port.dtype, shape=port.shape, accepts=port.accepts
    )


def _port_from_proto(port: pb.Port) -> Port:
    return Port(port.name, port.type, port.space, port.dtype, tuple(port.shape), tuple(port.accepts))


def _object(text: str, field: str) -> dict[str, Any]:
    """A JSON object; empty text is an empty one."""
    try:
        values = strict_json.parse(text or "{}")
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{field} is {type(values).__name__}, must be an object")
    return values
