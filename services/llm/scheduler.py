"""Which sequence takes its next step. One sequence a step for now: each runs alone, so that its output is the same
whatever else is in the engine; requests join and leave at every step.
"""

from services.llm.sequence import Sequence, State
from triptych.serving.rotation import Rotation


class Scheduler(Rotation[Sequence]):
    """waiting -> running -> finished."""

    def __init__(self, max_num_seqs: int, max_waiting: int) -> None:
        super().__init__("llm", max_num_seqs, max_waiting)

    def schedule(self) -> Sequence | None:
        sequence = super().schedule()
        if sequence is not None:
            sequence.state = State.RUNNING
        return sequence

    def remove(self, request: Sequence) -> None:
        super().remove(request)
        request.state = State.FINISHED
