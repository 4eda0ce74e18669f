"""A mix made by the workers of a job queue: the steps as Celery tasks, and who hands them out.

What is done is known by the files that it leaves (`phases`), not by what a worker says: a task may be lost, run twice,
or twice at the same time, and the same bytes come out. Workers and driver see the same file system, by the same paths.
"""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery, shared_task
from celery.exceptions import WorkerLostError
from celery.result import denied_join_result
from celery.states import FAILURE

from services.trainer.data.folder import MixFolder
from services.trainer.data.mix import Mix
from services.trainer.data.phases import STEPS, Arguments, Phase, phases
from triptych.errors import FailedPrecondition, TriptychError

POLL_S = 1.0
LOST_AFTER_S = 60.0
ASKING_S = 5.0  # how long workers have to say what they hold
MAX_KILLED = 3  # a task that keeps killing its process needs more memory than there is
Report = Callable[[str], None]


def task_name(step: Callable[..., None]) -> str:
    return f"triptych.prepare.{step.__name__}"


# Of every app that a worker runs with this module in `include`. Acknowledged when begun: Redis would deliver what is
# acknowledged late once more after the visibility timeout, while it still runs. The driver sends again what was lost.
for each in STEPS:
    shared_task(name=task_name(each), acks_late=False)(each)


def prepare_queued(
    app: Celery,
    mix: Mix,
    out: Path,
    root: Path,
    report: Report,
    *,
    poll_s: float = POLL_S,
    lost_after_s: float = LOST_AFTER_S,
) -> MixFolder:
    """As `prepare`, on the workers of `app`, which needs a result backend. Not from within a task of the same queue.

    When nothing was finished for `lost_after_s`, what neither waits nor is held by a living worker is sent again.
    Raises InvalidArgument and FailedPrecondition as `prepare` does, the latter also for whatever else ended a task.
    """
    folder = MixFolder.begin(mix, out.absolute(), root.absolute())
    for phase in phases(folder):
        _Run(app, phase, report).finish(poll_s, lost_after_s)
    return folder


class _Run:
    """A phase under way."""

    def __init__(self, app: Celery, phase: Phase, report: Report) -> None:
        self._app, self._phase, self._report = app, phase, report
        self._task = task_name(phase.step)
        self._sent: dict[Arguments, Any] = {}
        self._num_killed: Counter[Arguments] = Counter()

    def finish(self, poll_s: float, lost_after_s: float) -> None:
        """Sends what is to be done, and again what was lost, until every mark is there."""
        still_open = self._phase.open()
        try:
            self._send(still_open)
            since = time.monotonic()
            while still_open:
                time.sleep(poll_s)
                before, still_open = len(still_open), self._phase.open()
                if len(still_open) < before:
                    since = time.monotonic()
                    total = len(self._phase.marks)
                    self._report(f"{self._phase.title}: {total - len(still_open)} of {total}")
                self._send_again(self._killed(still_open))
                if time.monotonic() - since > lost_after_s:
                    self._send_again(self._lost(still_open))
                    since = time.monotonic()
        finally:
            if still_open:
                self._app.control.revoke([self._sent[each].id for each in still_open if each in self._sent])

    def _send(self, arguments: list[Arguments]) -> None:
        # Results are asked for, not waited for, so none are subscribed to: that would fail in ways of its own.
        with denied_join_result():
            for each in arguments:
                self._sent[each] = self._app.send_task(self._task, each)

    def _send_again(self, arguments: list[Arguments]) -> None:
        self._send(arguments)
        if arguments:
            self._report(f"{self._phase.title}: {len(arguments)} lost, sent again")

    def _killed(self, still_open: list[Arguments]) -> list[Arguments]:
        """Those whose process was killed under a worker that lives. Raises what ended any other."""
        killed = []
        for each in still_open:
            result = self._sent[each]
            if result.state != FAILURE or each not in self._phase.open():  # of two at a time, one may have failed
                continue
            self._num_killed[each] += 1
            if isinstance(result.result, WorkerLostError) and self._num_killed[each] <= MAX_KILLED:
                killed.append(each)
            elif isinstance(result.result, TriptychError):
                raise result.result
            elif isinstance(result.result, OSError):  # a full disk: where in our code it was met helps nobody
                raise FailedPrecondition(f"{self._task}{each}: {result.result}")
            else:
                raise FailedPrecondition(f"{self._task}{each}: {result.result!r}\n{result.traceback or ''}")
        return killed

    def _lost(self, still_open: list[Arguments]) -> list[Arguments]:
        """Those that are neither in the queue nor with a worker: asked in the order in which they go."""
        if self._num_waiting():
            return []
        inspect = self._app.control.inspect(timeout=ASKING_S)
        replies = [*(inspect.reserved() or {}).values(), *(inspect.active() or {}).values()]
        held = {task["id"] for reply in replies for task in reply}
        return [each for each in still_open if self._sent[each].id not in held]

    def _num_waiting(self) -> int:
        queue = self._app.amqp.router.route({}, self._task)["queue"]
        with self._app.connection_for_read() as connection:
            try:
                return int(connection.default_channel.queue_declare(queue=queue.name, passive=True).message_count)
            except connection.channel_errors:  # on Redis, an empty queue is none
                return 0
