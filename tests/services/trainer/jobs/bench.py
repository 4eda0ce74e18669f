"""A folder with a broker of its own, real workers, and what a test asks of them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from services.trainer.app import configure
from services.trainer.jobs.broker import Broker
from services.trainer.jobs.local import stop_workers
from services.trainer.jobs.processes import mark, marked
from services.trainer.jobs.record import Job, Node
from services.trainer.jobs.settings import JobSettings
from services.trainer.jobs.store import JobStore
from services.trainer.jobs.submission import submit_recipe
from services.trainer.tasks import enqueue
from tests.services.trainer.test_pipeline import toml
from tests.services.trainer.tiny_recipe import tiny_values

ROOT = Path(__file__).parents[4]
COUNTING = f"{sys.executable} -S {Path(__file__).with_name('counting_trainer.py')}"
QUICK = {"LEASE_S": "4", "BEAT_S": "0.1", "PATROL_S": "0.2", "GRACE_S": "1", "GATHER_S": "5"}
TIMEOUT_S = 150.0  # much more than it takes, for machines that do much else


class Bench:
    """Every command is a real process. `close` ends all of them."""

    def __init__(self, folder: Path, trainer: str = COUNTING, **settings: str) -> None:
        self.folder, self.runs = folder, folder / "runs"
        variables = {f"TRIPTYCH_JOBS_{key}": value for key, value in {**QUICK, **settings}.items()}
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TRIPTYCH_RUNS": str(self.runs)}
        self.environment = {**os.environ, **own, **variables, "TRIPTYCH_JOBS_TRAINER": trainer}
        self.broker = Broker.in_folder(self.runs).ready()
        self.store = JobStore(self.broker.client())
        self._workers: list[subprocess.Popen[bytes]] = []

    def recipe(self, name: str, **changed: Any) -> Path:
        path = self.folder / f"{name}.toml"
        values = {"name": name, "runs": str(self.runs), "out": str(self.folder / name), **changed}
        path.write_text(toml(tiny_values(**values)))
        return path

    def launch(self, name: str, *queues: str, **changed: Any) -> str:
        """What `submit` does, without the cost of a process."""
        app = configure(self.broker, JobSettings())
        app.close()
        app.amqp._producer_pool = None  # of an earlier bench: a process has one broker, save this one
        job = submit_recipe(self.store, self.recipe(name, **changed), ())
        nodes = tuple(Node(queue=queue) for queue in queues) or job.nodes
        enqueue(self.store.change(job.id, lambda job: job.model_copy(update={"nodes": nodes}).launched(time.time())))
        return job.id

    def train(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """`triptych train ...`; stdout and stderr once it ended as expected."""
        command = [sys.executable, "-m", "services.trainer.jobs", *arguments]
        environment, folder = self.environment, self.folder
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == code, done.stderr[-3000:]
        return done.stdout.strip(), done.stderr

    def start_worker(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Returns when it is at work."""
        command = [sys.executable, "-m", "services.trainer.jobs", "worker", *arguments]
        with (self.folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self._workers.append(process)
        self.wait(lambda: process.pid in [worker.pid for worker in self.store.workers()])
        return process

    def wait(self, what: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < deadline_s, self.logs()
            time.sleep(0.05)

    def wait_for(self, job_id: str, state: str) -> Job:
        def reached() -> bool:
            try:
                job = self.store.get(job_id)
            except redis.ConnectionError:  # a test has killed it, and it will be back
                return False
            assert job.state == state or not job.is_ended, f"{job}\n{self.logs()}"
            return job.state == state

        self.wait(reached)
        return self.store.get(job_id)

    def wait_for_step(self, job_id: str, step: int) -> None:
        """Of any one stage."""
        self.wait(lambda: max((s.step for s in self.store.get(job_id).progress.values()), default=0) >= step)

    def kill_broker(self) -> None:
        os.kill(int(self.store.redis.info("server")["process_id"]), signal.SIGKILL)  # type: ignore[index]

    def left(self, job_id: str, node: int = 0) -> list[int]:
        """Processes that the job has started and that live."""
        return marked(mark(job_id, node))

    def counted(self, name: str, rank: int = 0) -> int:
        file = self.runs / name / f"count-{rank}"
        return int(file.read_text()) if file.exists() else 0

    def calls(self, name: str) -> list[str]:
        """The tasks that the trainer was started for."""
        return [line.split()[0] for line in (self.runs / name / "calls").read_text().splitlines()]

    def doubled(self, name: str) -> bool:
        return (self.runs / name / "doubled").exists()

    def logs(self) -> str:
        files = [*self.folder.glob("*.log"), *self.runs.glob("broker/worker.log"), *self.runs.glob("jobs/*/*.log")]
        return "\n".join(f"--- {file}\n{file.read_text(errors='replace')[-6000:]}" for file in files)

    def close(self) -> None:
        try:
            self.broker.ready()
            stop_workers(self.store)  # also those that a command has started
        finally:
            for process in self._workers:
                process.kill()
                process.wait()
            assert self.broker.embedded is not None
            self.broker.embedded.stop()
            shutil.rmtree(self.folder)
