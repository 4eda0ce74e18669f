"""OrchestratorService: messages in, numbered events out. Decides nothing."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc.aio

from services.orchestrator.backends import STAGES, Backends
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.metrics import OrchestratorMetrics
from services.orchestrator.pipeline import Pipeline
from services.orchestrator.replica import STANDINGS, Replica
from services.orchestrator.request import TASKS, parse
from services.orchestrator.routing import verdicts
from services.orchestrator.stages import TimeoutFor
from triptych.serving import request_id
from triptych.v1 import orchestrator_pb2 as pb
from triptych.v1 import orchestrator_pb2_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["OrchestratorService"].full_name
Context = grpc.aio.ServicerContext[pb.RespondRequest, pb.RespondResponse]


class OrchestratorServicer(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """The service users call."""

    def __init__(
        self, config: OrchestratorConfig, backends: Backends, pipeline: Pipeline, metrics: OrchestratorMetrics
    ) -> None:
        self._config = config
        self._backends = backends
        self._pipeline = pipeline
        self._metrics = metrics

    async def Respond(self, request: pb.RespondRequest, context: Context) -> AsyncIterator[pb.RespondResponse]:
        with self._metrics.request(TASKS.get(request.task, "unknown")) as answered:
            parsed = parse(request, self._config)
            events = self._pipeline.run(parsed, self._timeouts(context), request_id.current.get())
            async with aclosing(events):
                number = 0
                async for event in events:
                    event.sequence_number = number
                    number += 1
                    answered()
                    yield event

    async def ListComponents(self, request: pb.ListComponentsRequest, context: object) -> pb.ListComponentsResponse:
        replicas = [self._listed(replica) for stage in STAGES for replica in self._backends.replicas(stage)]
        return pb.ListComponentsResponse(replicas=replicas, chains=self._chains())

    def _listed(self, replica: Replica) -> pb.Replica:
        record = self._backends.trials.record(replica.stage, replica.generation)
        return pb.Replica(
            kind=replica.stage,
            address=replica.address,
            health=replica.health,
            detail=replica.detail,
            description=replica.description,
            standing=STANDINGS[replica.standing.word],
            standing_reason=replica.standing.reason,
            share=replica.share,
            num_calls=record.num_calls,
            num_failed=record.num_failed,
            is_leaving=replica.is_leaving,
        )

    def _chains(self) -> list[pb.Chain]:
        cards = ([c.card for c in self._backends.candidates(stage)] for stage in STAGES)
        return [
            pb.Chain(
                encoder_digest=verdict.encoder.digest if verdict.encoder else "",
                llm_digest=verdict.llm.digest,
                decoder_digest=verdict.decoder.digest if verdict.decoder else "",
                compatible=not verdict.reason,
                reason=verdict.reason,
            )
            for verdict in verdicts(*cards)
        ]

    def _timeouts(self, context: Context) -> TimeoutFor:
        """Seconds for a call to a stage: its own limit, or what is left of the caller's deadline."""
        remaining = context.time_remaining()
        ends = time.monotonic() + remaining if remaining is not None else float("inf")
        limits = {
            "encoder": self._config.encoder_timeout_s,
            "llm": self._config.llm_timeout_s,
            "decoder": self._config.decoder_timeout_s,
        }
        return lambda stage: max(0.0, min(limits[stage], ends - time.monotonic()))
