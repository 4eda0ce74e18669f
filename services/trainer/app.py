"""The Celery app. Celery drives and torch trains, in a process of its own: nothing here ever sees torch.

The settings are for tasks that take hours, on Redis: docs/jobs.md says why each is as it is.
"""

from typing import Any, Final

from celery import Celery

from services.trainer.jobs.broker import CONNECT_TIMEOUT_S, Broker
from services.trainer.jobs.settings import JobSettings

DEFAULT_QUEUE: Final = "triptych"
SOCKET_TIMEOUT_S: Final = 30.0
HEALTH_CHECK_S: Final = 5

app = Celery("triptych", include=["services.trainer.tasks", "services.trainer.data.queued"])


def configure(broker: Broker, settings: JobSettings) -> Any:
    """The app, for this broker. Connects to nothing."""
    visibility = {"visibility_timeout": settings.visibility_timeout_s}
    transport = {
        **visibility,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_keepalive": True,
        "health_check_interval": HEALTH_CHECK_S,
    }
    app.conf.update(
        broker_url=broker.celery_url,
        result_backend=broker.celery_url,
        triptych_broker=broker,
        # Of several apps on one Redis, and of these three places, the shortest counts.
        broker_transport_options=transport,
        result_backend_transport_options={**visibility, "retry_policy": {"timeout": CONNECT_TIMEOUT_S}},
        visibility_timeout=settings.visibility_timeout_s,
        # A task is acknowledged before it begins, and none waits inside a worker: so none is ever delivered twice
        # because it takes long.
        task_acks_late=False,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_pool="prefork",
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        redis_socket_timeout=SOCKET_TIMEOUT_S,
        redis_socket_connect_timeout=CONNECT_TIMEOUT_S,
        task_default_queue=DEFAULT_QUEUE,
        task_serializer="json",
        accept_content=["json"],
        # For Flower.
        task_send_sent_event=True,
        worker_send_task_events=True,
        task_track_started=True,
    )
    return app
