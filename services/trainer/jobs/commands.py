"""`triptych train`: training runs as jobs. Exit codes: 0 ok, 1 the job failed, 2 usage or bad input, 3 no broker."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import kombu.exceptions
import redis
import typer

from services.trainer.app import DEFAULT_QUEUE, configure
from services.trainer.data.mix import Mix
from services.trainer.data.queued import prepare_queued
from services.trainer.jobs.address import address_towards, meeting_place
from services.trainer.jobs.broker import Broker
from services.trainer.jobs.local import serving, start_worker, stop_workers
from services.trainer.jobs.record import Job
from services.trainer.jobs.settings import JobSettings
from services.trainer.jobs.store import JobStore
from services.trainer.jobs.submission import check_unchanged, submit_recipe
from services.trainer.jobs.view import follow, print_job, print_jobs, state_of
from services.trainer.tasks import enqueue
from triptych.errors import FailedPrecondition, InvalidArgument, TriptychError, Unavailable

CANCEL_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.2

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Training runs as jobs: prepare, train, evaluate, export, publish. They outlive whatever is killed.",
)

Url = Annotated[
    str, typer.Option("--broker", envvar="TRIPTYCH_BROKER", help="redis://...; absent: one of our own, in RUNS/broker")
]
Runs = Annotated[Path, typer.Option(envvar="TRIPTYCH_RUNS", help="folder of our own broker's data, and of logs")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="as `submit` printed it")]
Json = Annotated[bool, typer.Option("--json", help="as JSON, once")]
RUNS: Final = Path("runs")


def main() -> None:
    """Entry point of `python -m services.trainer.jobs`, which is `triptych train`."""
    app(prog_name="triptych train")


@app.command()
def submit(
    recipe: Annotated[Path, typer.Argument(help="the recipe, a TOML file")],
    queue: Annotated[list[str], typer.Option(help="whose workers train it; once for each node", default_factory=list)],
    broker: Url = "",
    runs: Runs = RUNS,
) -> None:
    """Start a training run. The job's id goes to stdout."""
    with _reported():
        known = _broker(broker, runs)
        store = _store(known)
        job = submit_recipe(store, recipe, tuple(queue))
        _launch(store, known, job)
        typer.echo(job.id)
        typer.echo(f"follow it with: triptych train status {job.id}", err=True)


@app.command()
def status(
    job_id: JobId,
    follows: Annotated[bool, typer.Option("--follow/--no-follow", help="stay until it has ended")] = True,
    as_json: Json = False,
    broker: Url = "",
    runs: Runs = RUNS,
) -> None:
    """Show how far a job is, live. Exit code 1 when it has failed."""
    with _reported():
        store, silence_s = _store(_broker(broker, runs)), JobSettings.read().lease_s
        job = store.get(job_id)
        if as_json:
            typer.echo(_json(job, silence_s))
        elif follows:
            job = follow(lambda: store.get(job_id), silence_s)
        if not as_json and (not follows or job.error):
            print_job(job, silence_s)
        raise typer.Exit(int(job.state == "failed"))


@app.command(name="list")
def list_jobs(as_json: Json = False, broker: Url = "", runs: Runs = RUNS) -> None:
    """Show all jobs, oldest first."""
    with _reported():
        jobs, silence_s = _store(_broker(broker, runs)).all(), JobSettings.read().lease_s
        if as_json:
            typer.echo("\n".join(_json(job, silence_s) for job in jobs))
        else:
            print_jobs(jobs, silence_s)


@app.command()
def cancel(job_id: JobId, broker: Url = "", runs: Runs = RUNS) -> None:
    """Stop a job and everything it has started; returns when it has stopped."""
    with _reported():
        store, silence_s = _store(_broker(broker, runs)), JobSettings.read().lease_s

        def wish(job: Job) -> Job:
            at_work = any(node.state == "ready" for node in job.nodes) and not job.silent_nodes(time.time(), silence_s)
            if job.is_ended:
                return job
            return job.model_copy(update={"cancel_requested": True}) if at_work else job.ended("cancelled", time.time())

        if (job := store.get(job_id)).is_ended:
            raise FailedPrecondition(f"job {job.id} is {job.state} already")
        deadline_s = time.monotonic() + CANCEL_TIMEOUT_S + silence_s
        while not (job := store.change(job_id, wish)).is_ended:  # again: its worker may die before it sees the wish
            if time.monotonic() > deadline_s:
                raise Unavailable(f"job {job_id} has not stopped; its worker: {job.nodes[0].worker}")
            time.sleep(POLL_S)
        typer.echo(f"{job.id} is {job.state}", err=True)


@app.command()
def resume(
    job_id: JobId,
    recipe: Annotated[Path | None, typer.Option(help="the recipe's file, where it is elsewhere now")] = None,
    broker: Url = "",
    runs: Runs = RUNS,
) -> None:
    """Go on with a job that failed, was cancelled or lost, from its last checkpoint. The recipe must be the same."""
    with _reported():
        known = _broker(broker, runs)
        store, silence_s = _store(known), JobSettings.read().lease_s

        def again(job: Job) -> Job:
            check_unchanged(job, recipe)
            if job.state == "done":
                raise FailedPrecondition(f"job {job.id} is done")
            if not job.is_ended and any(n.state == "ready" for n in job.nodes) and state_of(job, silence_s) != "lost":
                raise FailedPrecondition(f"job {job.id} is {job.state}, on {job.nodes[0].worker}")
            return job.resumed(time.time())

        _launch(store, known, store.change(job_id, again), is_launched=True)
        typer.echo(job_id)


@app.command()
def worker(
    queue: Annotated[
        str, typer.Option(help="whose tasks it takes; a name of its own for every node of a large job")
    ] = DEFAULT_QUEUE,
    address: Annotated[str, typer.Option(help="of this machine, for the other nodes of a job; found if absent")] = "",
    broker: Url = "",
    runs: Runs = RUNS,
) -> None:
    """Work on jobs, one at a time, until stopped. SIGTERM hands the job back; it goes on from its last checkpoint."""
    with _reported():
        known = _broker(broker, runs)
        celery = configure(known, JobSettings.read())
        celery.conf.triptych_address = _checked(address) if address else _address(known)
        name = f"{queue}.{os.getpid()}@{socket.gethostname()}"
        flags = ["--loglevel", "INFO", "--without-mingle", "--without-gossip"]  # it needs no other workers
        celery.worker_main(["worker", "--queues", queue, "--hostname", name, *flags])


@app.command()
def prepare(
    mix: Annotated[Path, typer.Argument(help="the recipe of the mix, a TOML file")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the folder to write; workers see it by the same path")],
    broker: Url = "",
    runs: Runs = RUNS,
) -> None:
    """Make an instruction mix with the workers there are. The path of its card goes to stdout.

    On one machine, `python -m services.trainer.prepare` does the same with all of its cores. Stop it whenever you
    like: the same command goes on where it was.
    """
    with _reported():
        wanted = Mix.read(mix)
        known = _broker(broker, runs)
        _see_to_worker(_store(known), known, DEFAULT_QUEUE)
        folder = prepare_queued(
            configure(known, JobSettings.read()), wanted, out, Path.cwd(), partial(typer.echo, err=True)
        )
        typer.echo(folder.out / "card.html")


@app.command()
def flower(
    port: Annotated[int, typer.Option(min=1, max=65535, help="where to listen, on 127.0.0.1")] = 5555,
    broker: Url = "",
    runs: Runs = RUNS,
) -> None:
    """Show workers and tasks in a browser."""
    with _reported():
        celery = configure(_broker(broker, runs), JobSettings.read())
        celery.start(["flower", "--address=127.0.0.1", f"--port={port}"])


@app.command()
def stop(runs: Runs = RUNS) -> None:
    """Stop this machine's workers and our own broker. Jobs are kept, and go on with the next worker."""
    with _reported():
        known = Broker.in_folder(runs)
        assert known.embedded is not None
        if known.embedded.exists:
            for stopped in stop_workers(_store(known.ready())):
                typer.echo(f"stopped worker {stopped.name}", err=True)
            known.embedded.stop()


def _broker(url: str, runs: Path) -> Broker:
    """One that answers."""
    if url:
        return Broker.at(url).ready()
    return Broker.in_folder(runs).ready()


def _store(broker: Broker) -> JobStore:
    configure(broker, JobSettings.read())
    return JobStore(broker.client())


def _launch(store: JobStore, broker: Broker, job: Job, *, is_launched: bool = False) -> None:
    """Into the queues, which need workers."""
    enqueue(job if is_launched else store.change(job.id, lambda job: job.launched(time.time())))
    for node in job.nodes:
        _see_to_worker(store, broker, node.queue)


def _see_to_worker(store: JobStore, broker: Broker, queue: str) -> None:
    """Starts one where there is none, with a broker of our own; says so with another."""
    if broker.embedded is None:
        if serving(store, queue) is None:
            typer.echo(f"no worker yet: triptych train worker --queue {queue}", err=True)
    elif started := start_worker(store, broker.embedded, queue):
        where = f"pid {started.pid}, log {broker.embedded.folder / 'worker.log'}"
        typer.echo(f"started a worker ({where}); `triptych train stop` ends it", err=True)


def _json(job: Job, silence_s: float) -> str:
    return json.dumps({**job.model_dump(mode="json"), "state": state_of(job, silence_s)})


def _checked(address: str) -> str:
    """Raises InvalidArgument when no rank could listen there."""
    try:
        meeting_place(address)
    except OSError as error:
        raise InvalidArgument(f"--address {address} is none of this machine's: {error}") from None
    return address


def _address(broker: Broker) -> str:
    """This machine's, as the broker's machine sees it."""
    parts = urlsplit(broker.url)
    if parts.scheme == "unix" or parts.hostname is None:
        return "127.0.0.1"
    return address_towards(parts.hostname, parts.port or 6379)


@contextmanager
def _reported() -> Iterator[None]:
    """Errors as one line on stderr and an exit code."""
    try:
        yield
    except TriptychError as error:
        typer.echo(f"error: {error}", err=True)
        code = 2 if isinstance(error, InvalidArgument) else 3 if isinstance(error, Unavailable) else 1
        raise typer.Exit(code) from None
    except (redis.RedisError, kombu.exceptions.OperationalError) as error:
        typer.echo(f"error: the broker: {error}", err=True)
        raise typer.Exit(3) from None
    except OSError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
