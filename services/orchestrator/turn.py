"""What belongs to one request from its admission to its end, whichever chain serves it."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.orchestrator.embedder import Picture
from services.orchestrator.request import Request
from services.orchestrator.stages import Stages
from services.orchestrator.tally import Tally


@dataclass(frozen=True)
class Turn:
    """`pictures` are those of the request, checked."""

    request: Request
    request_id: str
    pictures: Sequence[Picture]
    tally: Tally
    stages: Stages
