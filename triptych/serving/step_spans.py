"""A request's steps as spans: its time in the queue, then one for each phase (prefill, decode, denoise), cut into
groups so that a long reply shows its course while it runs, and no step costs a span of its own.
"""

from typing import Final

from triptych.traces import NOTHING, Span

STEPS_PER_SPAN: Final = 32


class StepSpans:
    """Of one request that takes turns with others. `running_ms` of a group is what its own steps took; the rest of the
    span's duration was other requests' turns."""

    def __init__(self, parent: Span) -> None:
        self._parent = parent
        self._open = parent.child("queue")
        self._phase = ""
        self._first_step = 0
        self._num_steps = 0
        self._running_ms = 0.0

    def begin_step(self, phase: str) -> None:
        if phase == self._phase and self._num_steps < STEPS_PER_SPAN:
            return
        self._close()
        self._first_step += self._num_steps
        self._num_steps, self._running_ms, self._phase = 0, 0.0, phase
        self._open = self._parent.child(phase, first_step=self._first_step)

    def end_step(self, running_ms: float) -> None:
        self._num_steps += 1
        self._running_ms += running_ms

    def close(self, error: BaseException | None = None) -> None:
        """The request is finished, failed or was abandoned."""
        self._close(error)
        self._open = NOTHING

    def _close(self, error: BaseException | None = None) -> None:
        if self._phase:
            self._open.set(num_steps=self._num_steps, running_ms=round(self._running_ms, 3))
        self._open.end(error)
