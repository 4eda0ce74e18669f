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
            recover(self._store, self._settings, self._enqueue)


def recover(store: JobStore, settings: JobSettings, enqueue: Callable[[Job], None]) -> list[str]:
    """Ids of the jobs that were launched again: silent ones, and ones whose message the broker has lost."""
    found = []
    for job in store.all():
        if job.is_ended or not _is_lost(store, job, settings):
            continue
        after = store.change(job.id, lambda now, seen=job: _again(now, seen, settings))  # type: ignore[misc]
        if after.launch > job.launch and store.once(f"{job.id}:{after.launch}", settings.lease_s):
            LOG.warning("job %s was lost; launched again as %d", job.id, after.launch)
            enqueue(after)
            found.append(job.id)
    return found


def _is_lost(store: JobStore, job: Job, settings: JobSettings) -> bool:
    now_s = time.time()
    if job.state == "running":
        silent = job.silent_nodes(now_s, settings.lease_s)
        return any(store.lease(job.id, node, settings.lease_s).holder_launch() == 0 for node in silent)
    if now_s - job.changed_s < settings.lease_s or any(node.state == "ready" for node in job.nodes):
        return bool(job.silent_nodes(now_s, settings.lease_s))
    return not any(store.redis.llen(node.queue) for node in job.nodes[: job.width])


def _again(job: Job, seen: Job, settings: JobSettings) -> Job:
    if (job.launch, job.state) != (seen.launch, seen.state):
        return job
    if job.cancel_requested:
        return job.ended("cancelled", time.time())
    if job.state == "queued":
        return job.launched(time.time())
    workers = ", ".join(job.nodes[node].worker for node in job.silent_nodes(time.time(), settings.lease_s))
    return job.crashed(f"worker {workers} has been silent for {settings.lease_s:g} s", time.time())
