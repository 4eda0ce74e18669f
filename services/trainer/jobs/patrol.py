"""What every worker does beside its work, in a thread: it says that it lives, keeps an embedded broker up, and brings
back jobs that were lost, its own or others'."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import redis

from services.trainer.jobs.broker import Broker
from services.trainer.jobs.record import Job
from services.trainer.jobs.settings import JobSettings
from services.trainer.jobs.store import JobStore, LiveWorker
from triptych.errors import TriptychError

LOG: Final = logging.getLogger(__name__)
MISSED_PATROLS: Final = 3  # so many, and a worker counts as gone


class Patrol(threading.Thread):
    """Runs until `end`."""

    def __init__(
        self, broker: Broker, worker: LiveWorker, settings: JobSettings, enqueue: Callable[[Job], None]
    ) -> None:
        super().__init__(daemon=True, name="patrol")
        self._broker, self._worker, self._settings, self._enqueue = broker, worker, settings, enqueue
        self._store = JobStore(broker.client())
        self._recovery = Recovery(self._store, settings, enqueue)
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self._round()
            except (redis.RedisError, TriptychError, OSError) as error:
                LOG.warning("the broker is away: %s", error)
            self._ended.wait(self._settings.patrol_s)

    def leave(self) -> None:
        """Says that this worker is about to stop; its task sees it and lets go."""
        self._worker = self._worker.model_copy(update={"stopping": True})
        with suppress(redis.RedisError):  # the next round says it again
            self._announce()

    def end(self) -> None:
        self._ended.set()
        with suppress(redis.RedisError):  # it runs out by itself
            self._store.forget(self._worker.name)

    def _announce(self) -> None:
        self._store.announce(self._worker, MISSED_PATROLS * self._settings.patrol_s + self._settings.grace_s)

    def _round(self) -> None:
        if self._broker.embedded:
            self._broker.ready()
        self._announce()
        if not self._worker.stopping:
            self._recovery.round()


class Recovery:
    """Launches lost jobs again: silent ones, and queued ones whose message the broker has lost."""

    def __init__(self, store: JobStore, settings: JobSettings, enqueue: Callable[[Job], None]) -> None:
        self._store, self._settings, self._enqueue = store, settings, enqueue
        self._missed: dict[str, tuple[int, float]] = {}  # job -> launch whose message was not seen, since when

    def round(self) -> list[str]:
        """Ids of the jobs that we have launched again. Safe where many do it at the same time."""
        return [job.id for job in self._store.all() if not job.is_ended and self._is_lost(job) and self._again(job)]

    def _is_lost(self, job: Job) -> bool:
        if silent := job.silent_nodes(time.time(), self._settings.lease_s):
            return any(self._store.lease(job.id, node, self._settings.lease_s).holder_launch() == 0 for node in silent)
        if job.state == "running" or any(node.state == "ready" for node in job.nodes):
            return False
        if any(self._store.redis.llen(node.queue) for node in job.nodes[: job.width]):
            self._missed.pop(job.id, None)
            return False
        launch, since_s = self._missed.get(job.id, (0, 0.0))
        if launch != job.launch:  # a worker may just have taken the message: look again later
            self._missed[job.id] = (job.launch, time.monotonic())
            return False
        return time.monotonic() - since_s > self._settings.lease_s

    def _again(self, seen: Job) -> bool:
        launched = False

        def step(job: Job) -> Job:
            nonlocal launched
            after = job if (job.launch, job.state) != (seen.launch, seen.state) else _recovered(job, self._settings)
            launched = after.launch > job.launch
            return after

        job = self._store.change(seen.id, step)
        if launched:
            LOG.warning("job %s was lost; launch %d", job.id, job.launch)
            self._enqueue(job)
        return launched


def _recovered(job: Job, settings: JobSettings) -> Job:
    if job.cancel_requested:
        return job.ended("cancelled", time.time())
    workers = [job.nodes[node].worker for node in job.silent_nodes(time.time(), settings.lease_s)]
    if not workers:
        return job.launched(time.time())
    return job.crashed(f"no sign of life from {', '.join(workers)} for {settings.lease_s:g} s", time.time())
