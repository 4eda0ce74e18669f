"""Sees one task of a job through on one node: at most one at a time, alive for all to see, gone when it is not wanted.

It knows Redis and processes, and neither Celery nor torch.
"""

import random
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar
from uuid import uuid4

import redis

from services.trainer.jobs.address import meeting_place
from services.trainer.jobs.child import Child
from services.trainer.jobs.guard import EXPIRED
from services.trainer.jobs.processes import end_marked, mark
from services.trainer.jobs.record import Job, StageProgress
from services.trainer.jobs.settings import JobSettings
from services.trainer.jobs.store import JobStore, Lease
from triptych.errors import FailedPrecondition, Unavailable

T = TypeVar("T")
Step = Callable[[Job], Job]
LOST_TOUCH: Final = (redis.ConnectionError, redis.TimeoutError)
CLEAR_ERRORS: Final = (1, 2)  # the trainer's exit codes when it knows what is wrong: trying again would not help


@dataclass
class Supervisor:
    """`address` is this machine's for the other nodes. `enqueue` puts a job's launch into the queues, `tell` passes
    progress on to whoever watches Celery."""

    store: JobStore
    settings: JobSettings
    worker: str
    address: str
    enqueue: Callable[[Job], None]
    tell: Callable[[Job], None]
    _safe_until_s: float = field(default=0.0, init=False)

    def run(self, job_id: str, task: str, node: int, launch: int) -> str:
        """What came of it, in words.

        What this machine cannot do (a full disk, a folder it does not see) fails the job. Raises Unavailable when the
        broker is gone for too long and FailedPrecondition when the lease is someone else's by now; nothing of ours runs
        on then, and others take the job up as a lost one.
        """
        lease = self.store.lease(job_id, node, self.settings.lease_s)
        if refusal := self._take(lease, job_id, task, node, launch):
            return refusal
        try:
            after = self._work(lease, job_id, node, launch)
        except SystemExit:  # Celery ends the task on someone's order
            step = _launched if self.store.is_stopping(self.worker) else _cancelled
            self._change(job_id, launch, step)
            raise
        except OSError as error:
            said = f"{self.worker}: {error}"
            after = self._change(job_id, launch, lambda job: job.ended("failed", time.time(), said))
        finally:
            lease.release()
        return f"{after.state}: {after.task}"

    def _take(self, lease: Lease, job_id: str, task: str, node: int, launch: int) -> str:
        """The lease; or the reason why there is nothing to do."""
        while True:
            job = self.store.get(job_id)
            if job.is_ended or (job.task, job.launch) != (task, launch) or job.nodes[node].state == "done":
                return f"nothing to do: the job is {job.state}, task {job.task}, launch {job.launch}"
            before_s = time.monotonic()
            if lease.acquire(launch, f"{self.worker} {uuid4().hex}"):
                self._safe_until_s = before_s + self.settings.safe_s
                return ""
            if lease.holder_launch() >= launch:
                return "already running"
            time.sleep(self.settings.beat_s)  # who worked for an earlier launch is about to stop

    def _work(self, lease: Lease, job_id: str, node: int, launch: int) -> Job:
        """The job as it is when our part is over."""
        end_marked(mark(job_id, node), grace_s=0)  # what a supervisor that was killed may have left behind
        job = self.store.get(job_id)
        if job.nodes[node].state == "ready":  # it was killed, and this is its message once more
            return self._change(job_id, launch, lambda job: job.crashed("its worker vanished", time.time()))
        Path(job.folder).stat()  # a worker that does not see it must not make it, and train where nobody looks
        place = meeting_place(self.address)
        job = self._change(job_id, launch, lambda job: job.joined(node, self.worker, place, time.time()))
        deadline_s = time.monotonic() + self.settings.gather_s * random.uniform(0.7, 1.3)  # not all at the same time
        while job.state == "queued" and (step := self._interruption(job, launch)) is None:
            if time.monotonic() > deadline_s:
                return self._change(job_id, launch, _launched)  # gives way to other jobs
            time.sleep(self.settings.beat_s)
            job = self._beat(lease, job, node, {})
        if (step := self._interruption(job, launch)) is not None:
            return self._change(job_id, launch, step)
        return self._follow(lease, job, node)

    def _follow(self, lease: Lease, job: Job, node: int) -> Job:
        """Starts the trainer and stays with it to its end, or to ours."""
        log = Path(job.files) / (f"{job.task}.log" if job.width == 1 else f"{job.task}-{node}.log")
        command = _command(self.settings, self._write_recipe(job), job, node)
        child = Child(command, Path(job.folder), log, mark(job.id, node), self.settings.grace_s)
        try:
            child.allow_until(self._safe_until_s)
            while (code := child.wait(self.settings.beat_s)) is None:
                now = self._beat(lease, job, node, child.take_progress())
                child.allow_until(self._safe_until_s)
                if (step := self._interruption(now, job.launch)) is not None:
                    child.stop()
                    return self._change(job.id, job.launch, step)
        finally:
            child.stop()
        self._beat(lease, job, node, child.take_progress())
        if code == EXPIRED:  # the broker was away, or we were: not the trainer's fault
            return self._change(job.id, job.launch, _launched)
        return self._change(job.id, job.launch, lambda job: _ended(job, node, code, child.error()))

    def _write_recipe(self, job: Job) -> Path:
        """As it was submitted: the file may have changed since."""
        path = Path(job.files) / "recipe.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{uuid4().hex}")
        partial.write_text(self.store.recipe_text(job.id), encoding="utf-8")
        partial.rename(path)
        return path

    def _interruption(self, job: Job, launch: int) -> Step | None:
        """What becomes of the job when our launch is to stop; None to go on."""
        if job.launch != launch or job.is_ended:
            return lambda job: job  # others have seen to it
        if job.cancel_requested:
            return _cancelled
        return _launched if self._patiently(lambda: self.store.is_stopping(self.worker)) else None

    def _beat(self, lease: Lease, job: Job, node: int, progress: dict[str, StageProgress]) -> Job:
        """Renews the lease, shows a sign of life, and returns the job as it is now."""
        before_s = time.monotonic()
        if not self._patiently(lease.renew):
            raise FailedPrecondition(f"job {job.id}: the lease has gone to someone else")
        self._safe_until_s = before_s + self.settings.safe_s
        now = self._change(job.id, job.launch, lambda job: job.alive(node, progress, time.time()))
        if progress:
            self.tell(now)
        return now

    def _change(self, job_id: str, launch: int, step: Step) -> Job:
        """The job afterwards; as it is where our launch is over. A new launch of our making goes into the queues."""
        launched = False

        def guarded(job: Job) -> Job:
            nonlocal launched
            after = job if job.launch != launch or job.is_ended else step(job)
            launched = after.launch > job.launch
            return after

        job = self._patiently(lambda: self.store.change(job_id, guarded))
        if launched:
            self.enqueue(job)
        return job

    def _patiently(self, call: Callable[[], T]) -> T:
        """Again and again while the broker is away, for as long as nobody else can have taken the lease. A call may
        take longer than that: the guard ends the trainer in time, whatever we are at."""
        while True:
            try:
                return call()
            except LOST_TOUCH as error:
                if time.monotonic() > self._safe_until_s:
                    raise Unavailable(f"no broker for {self.settings.safe_s:g} s: {error}") from error
                time.sleep(self.settings.beat_s)


def _cancelled(job: Job) -> Job:
    return job.ended("cancelled", time.time())


def _launched(job: Job) -> Job:
    return job.launched(time.time())


def _ended(job: Job, node: int, code: int, error: str) -> Job:
    if code == 0:
        return job.node_done(node, time.time())
    what = f"was ended by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
    error = f"{job.task} {what}\n{error}".strip()
    return job.ended("failed", time.time(), error) if code in CLEAR_ERRORS else job.crashed(error, time.time())


def _command(settings: JobSettings, recipe: Path, job: Job, node: int) -> list[str]:
    trainer = shlex.split(settings.trainer) or [sys.executable, "-m", "services.trainer"]
    command = [*trainer, str(recipe), "--task", job.task, "--json"]
    if job.width > 1:
        command += ["--node-rank", str(node), "--rendezvous", job.rendezvous]
    return command
