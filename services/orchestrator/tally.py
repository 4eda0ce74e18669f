"""What one request cost and who served it: becomes the Done event."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from services.orchestrator.comparison import Comparison
from services.orchestrator.metrics import OrchestratorMetrics
from services.orchestrator.trial import Trials
from triptych.card import Card
from triptych.v1 import llm_pb2
from triptych.v1 import orchestrator_pb2 as pb


class Tally:
    """Collects as the stages end."""

    def __init__(self, metrics: OrchestratorMetrics, trials: Trials) -> None:
        self._metrics = metrics
        self._trials = trials
        self._comparison = Comparison(trials)
        self._started = time.monotonic()
        self.stage_times: list[pb.StageTime] = []
        self._served_by: dict[tuple[str, str], pb.ServedBy] = {}

    def ended(self, served_by: pb.ServedBy, queued_ms: float, running_ms: float, num_units: int) -> None:
        """Only work that was finished counts: `num_units` pictures, tokens or steps of it."""
        stage = served_by.kind
        self.stage_times.append(pb.StageTime(stage=stage, queued_ms=queued_ms, running_ms=running_ms))
        self._served_by[stage, served_by.replica_id] = served_by
        self._metrics.stage(stage, queued_ms, running_ms)
        self._trials.took(stage, served_by.generation, running_ms, num_units)

    @contextmanager
    def calling(self, stage: str, generation: str) -> Iterator[None]:
        """Around a call to a replica."""
        with self._metrics.call(stage, generation), self._comparison.call(stage, generation):
            yield

    def cached(self, card: Card) -> None:
        """Its work was found in the cache: the card counts, no replica does."""
        self._served_by[card.kind, ""] = pb.ServedBy(
            kind=card.kind, name=card.name, version=card.version, digest=card.digest
        )

    def discard(self) -> None:
        """What was done so far is done anew by another chain."""
        self._served_by.clear()

    def done(self, finish: llm_pb2.Finish, request_id: str) -> pb.Done:
        return pb.Done(
            finish_reason=finish.reason,
            usage=finish.usage,
            stage_times=self.stage_times,
            served_by=self._served_by.values(),
            total_ms=1000 * (time.monotonic() - self._started),
            request_id=request_id,
        )
