"""The five tasks of a job as Celery knows them: each is a supervisor that starts the trainer and follows it."""

import logging
import os
import socket
from functools import partial
from typing import Any, Final

import kombu.exceptions
import redis
from celery import signals
from celery.result import denied_join_result

from services.trainer.app import app
from services.trainer.jobs.patrol import Patrol
from services.trainer.jobs.processes import die_with_parent
from services.trainer.jobs.record import TASKS, Job
from services.trainer.jobs.settings import JobSettings
from services.trainer.jobs.store import JobStore, LiveWorker
from services.trainer.jobs.supervisor import Supervisor

LOG: Final = logging.getLogger(__name__)
AWAY: Final = (kombu.exceptions.OperationalError, redis.RedisError, OSError)


def enqueue(job: Job) -> None:
    """The job's launch, one message for each node. One that cannot be sent is made up for by a patrol."""
    try:
        # No results are waited for, so none are subscribed to: that connection would not outlive a restart of Redis.
        with denied_join_result():
            _send(job)
    except AWAY:
        LOG.warning("job %s: launch %d could not be queued yet", job.id, job.launch, exc_info=True)


def _send(job: Job) -> None:
    for node in range(job.width):
        app.send_task(
            f"triptych.{job.task}",
            args=[job.id, node, job.launch],
            task_id=f"{job.id}-{job.task}-{job.launch}" + (f"-{node}" if node else ""),
            queue=job.nodes[node].queue,
        )


def run(self: Any, job_id: str, node: int, launch: int) -> str:
    """Body of all five; `self` is the Celery task."""
    supervisor = Supervisor(
        store=JobStore(app.conf.triptych_broker.client()),
        settings=JobSettings(),
        worker=self.request.hostname,
        address=app.conf.triptych_address,
        enqueue=enqueue,
        tell=partial(_tell, self),
    )
    return supervisor.run(job_id, self.name.removeprefix("triptych."), node, launch)


def _tell(task: Any, job: Job) -> None:
    """Progress for Flower and for Celery's results; nothing depends on it."""
    stages = {name: f"{stage.step}/{stage.steps}" for name, stage in job.progress.items()}
    try:
        task.send_event("task-progress", retry=False, result=" ".join(f"{n} {steps}" for n, steps in stages.items()))
        task.update_state(state="PROGRESS", meta=stages)
    except AWAY:
        LOG.warning("job %s: progress could not be shown", job.id)


for name in TASKS:
    app.task(run, name=f"triptych.{name}", bind=True)


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _begin_process(**_: Any) -> None:
    die_with_parent()  # else a task would go on, unseen, when its worker is killed


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _begin_patrol(sender: Any, **_: Any) -> None:
    worker = LiveWorker(
        name=sender.hostname,
        host=socket.gethostname(),
        pid=os.getpid(),
        queues=tuple(app.amqp.queues.consume_from),
    )
    app.conf.triptych_patrol = Patrol(app.conf.triptych_broker, worker, JobSettings(), enqueue)
    app.conf.triptych_patrol.start()


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _hand_back(**_: Any) -> None:
    """The job under way stops, to go on from its last checkpoint, and goes back into its queue."""
    if patrol := app.conf.get("triptych_patrol"):
        patrol.leave()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _end_patrol(**_: Any) -> None:
    if patrol := app.conf.get("triptych_patrol"):
        patrol.end()
