"""Who takes the next step: round robin among the running requests, first come first served into them. Plain policy:
no clock, no thread, no tensor.
"""

from collections import deque
from typing import Generic, TypeVar

from triptych.errors import ResourceExhausted
from triptych.serving.batching import Load

R = TypeVar("R")

RETRY_AFTER_MS = 1000


class Rotation(Generic[R]):
    """At most `max_running` requests take turns; at most `max_waiting` wait for a place. A request that leaves makes
    room at once, so requests join and leave at every step."""

    def __init__(self, name: str, max_running: int, max_waiting: int) -> None:
        self._name = name
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._running: deque[R] = deque()
        self._waiting: deque[R] = deque()

    @property
    def load(self) -> Load:
        return Load(len(self._running), len(self._waiting), self._max_waiting)

    def add(self, request: R) -> None:
        """Raises ResourceExhausted when all places, waiting ones included, are taken."""
        if len(self._running) < self._max_running:
            self._running.append(request)
        elif len(self._waiting) < self._max_waiting:
            self._waiting.append(request)
        else:
            raise ResourceExhausted(
                f"{self._name} queue is full: {len(self._running)} running, {len(self._waiting)} waiting, "
                f"at most {self._max_waiting}",
                retry_after_ms=RETRY_AFTER_MS,
            )

    def schedule(self) -> R | None:
        """The request whose turn it is, None when there is nothing to do."""
        if not self._running:
            return None
        request = self._running.popleft()
        self._running.append(request)
        return request

    def remove(self, request: R) -> None:
        """It has finished or was abandoned. Its place goes to who has waited longest."""
        if request in self._waiting:
            self._waiting.remove(request)
            return
        self._running.remove(request)
        if self._waiting:
            self._running.append(self._waiting.popleft())
