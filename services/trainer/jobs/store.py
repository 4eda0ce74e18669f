"""Jobs in Redis, under keys of our own: what Celery keeps of its results is gone after a day.

`triptych:jobs` holds all ids by age, `triptych:job:ID` a job as JSON, `triptych:job:ID:recipe` its recipe's text,
`triptych:job:ID:lease:NODE` who works for it (until when is the key's own expiry), `triptych:output:PATH` the last job
that had this folder, `triptych:worker:NAME` a worker.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import redis
from pydantic import BaseModel, ConfigDict
from redis.exceptions import LockError
from redis.lock import Lock

from services.trainer.jobs.record import Job
from triptych.errors import FailedPrecondition, InvalidArgument

JOBS: Final = "triptych:jobs"
WORKER: Final = "triptych:worker:"


class LiveWorker(BaseModel):
    """A worker as it says of itself, every few seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    host: str
    pid: int
    queues: tuple[str, ...]
    stopping: bool = False


class JobStore:
    """Every method may raise `redis.RedisError`; what changes something does so in one step."""

    def __init__(self, client: "redis.Redis") -> None:
        self.redis = client

    def add(self, job: Job, recipe_text: str) -> None:
        """Raises FailedPrecondition while another job that has not ended has the same output."""

        def attempt(pipe: "redis.client.Pipeline") -> None:
            _check_output(pipe, job)
            pipe.multi()
            pipe.set(f"{_key(job.id)}:recipe", recipe_text)
            pipe.set(_key(job.id), job.model_dump_json())
            pipe.set(_output_key(job), job.id)
            pipe.zadd(JOBS, {job.id: job.created_s})

        self.redis.transaction(attempt, _output_key(job))

    def get(self, job_id: str) -> Job:
        """Raises InvalidArgument naming the id that is not known."""
        return _job(job_id, self.redis.get(_key(job_id)))

    def recipe_text(self, job_id: str) -> str:
        return str(self.redis.get(f"{_key(job_id)}:recipe"))

    def all(self) -> list[Job]:
        """Oldest first."""
        ids = self.redis.zrange(JOBS, 0, -1)
        texts = self.redis.mget([_key(job_id) for job_id in ids]) if ids else []
        return [_job(job_id, text) for job_id, text in zip(ids, texts, strict=True)]

    def change(self, job_id: str, step: Callable[[Job], Job]) -> Job:
        """What `step` made of the job as it stood; asked again when someone else was quicker.

        Raises FailedPrecondition where a job that had ended would go on in a folder that another one has by now.
        """
        changed: list[Job] = []

        def attempt(pipe: "redis.client.Pipeline") -> None:
            before = _job(job_id, pipe.get(_key(job_id)))
            after = step(before)
            goes_on = before.is_ended and not after.is_ended
            if goes_on:
                pipe.watch(_output_key(after))  # type: ignore[no-untyped-call]
                _check_output(pipe, after)
            pipe.multi()
            if after != before:
                pipe.set(_key(job_id), after.model_dump_json())
            if goes_on:
                pipe.set(_output_key(after), job_id)
            changed[:] = [after]

        self.redis.transaction(attempt, _key(job_id))
        return changed[0]

    def lease(self, job_id: str, node: int, lease_s: float) -> "Lease":
        return Lease(self.redis, f"{_key(job_id)}:lease:{node}", lease_s)

    def announce(self, worker: LiveWorker, seconds: float) -> None:
        self.redis.set(f"{WORKER}{worker.name}", worker.model_dump_json(), px=int(1000 * seconds))

    def forget(self, name: str) -> None:
        self.redis.delete(f"{WORKER}{name}")

    def workers(self) -> list[LiveWorker]:
        keys = sorted(self.redis.scan_iter(f"{WORKER}*"))
        texts = self.redis.mget(keys) if keys else []
        return [LiveWorker.model_validate_json(text) for text in texts if text]

    def is_stopping(self, name: str) -> bool:
        text = self.redis.get(f"{WORKER}{name}")
        return text is not None and LiveWorker.model_validate_json(text).stopping


class Lease:
    """The right to work for a node of a job: for one at a time, and only as long as it is renewed."""

    def __init__(self, client: "redis.Redis", key: str, lease_s: float) -> None:
        self._redis, self._key = client, key
        # A thread of its own may renew it, and the wait is ours to make.
        self._lock = Lock(client, key, timeout=lease_s, blocking=False, thread_local=False)

    def acquire(self, launch: int, token: str) -> bool:
        return bool(self._lock.acquire(token=f"{launch} {token}"))

    def holder_launch(self) -> int:
        """What the present holder works for; 0 where there is none."""
        value = self._redis.get(self._key)
        return int(str(value).split()[0]) if value else 0

    def renew(self) -> bool:
        """False when it is someone else's by now. One that ran out while nobody wanted it is ours again."""
        try:
            return self._lock.reacquire()
        except LockError:
            token = self._lock.local.token
            if token is None:
                return False
            text = token.decode() if isinstance(token, bytes) else str(token)
            return bool(self._lock.acquire(token=text))

    def release(self) -> None:
        with suppress(LockError, redis.RedisError):  # someone else's, or it runs out by itself
            self._lock.release()


def _key(job_id: object) -> str:
    return f"triptych:job:{job_id}"


def _output_key(job: Job) -> str:
    return f"triptych:output:{job.output}"


def _check_output(pipe: "redis.client.Pipeline", job: Job) -> None:
    """The key that says whose the output is must be watched; so is that job, which may be resumed meanwhile."""
    holder = pipe.get(_output_key(job))
    if holder is None or holder == job.id:
        return
    pipe.watch(_key(holder))  # type: ignore[no-untyped-call]
    other = _job(holder, pipe.get(_key(holder)))
    if not other.is_ended:
        raise FailedPrecondition(f"job {other.id} is {other.state} in {job.output}: wait for it, or cancel it")


def _job(job_id: object, text: str | bytes | None) -> Job:
    if text is None:
        raise InvalidArgument(f"there is no job {job_id!r}")
    return Job.model_validate_json(text)
