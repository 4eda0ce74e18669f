"""How jobs are shown: bars on a terminal, lines elsewhere."""

import time
from collections.abc import Callable, Iterator

import redis
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.trainer.jobs.record import SPREAD, TASKS, Job, StageProgress
from services.trainer.progress import HIDDEN_FIGURES
from services.trainer.stages import TASKS as TASK_STAGES

POLL_S = 0.5
BAR_WIDTH = 24
MAX_SILENCE_S = 30.0


def state_of(job: Job, silence_s: float) -> str:
    """As stored; "lost" when nobody has shown a sign of life, and someone should have."""
    return "lost" if job.state == "running" and job.silent_nodes(time.time(), silence_s) else job.state


def print_jobs(jobs: list[Job], silence_s: float) -> None:
    """A table on a terminal, tab-separated lines elsewhere."""
    header = ["job", "state", "task", "progress", "created", "recipe"]
    rows = [
        [job.id, state_of(job, silence_s), job.task, _latest(job), _clock(job.created_s), job.recipe] for job in jobs
    ]
    console = Console()
    if not console.is_terminal:
        typer.echo("\n".join("\t".join(row) for row in [header, *rows]))
        return
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False)


def print_job(job: Job, silence_s: float) -> None:
    """Once, as it is."""
    Console(soft_wrap=True).print(_panel(job, silence_s))


def follow(look: Callable[[], Job], silence_s: float) -> Job:
    """Until it has ended: live on a terminal, elsewhere a line for everything new."""
    console = Console()
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            for job in _looks(look):
                live.update(_panel(job, silence_s))
        return job
    said = ""
    for job in _looks(look):
        line = "  ".join([state_of(job, silence_s), job.task, _latest(job)]).strip()
        if line != said:
            typer.echo(line)
            said = line
    return job


def _looks(look: Callable[[], Job]) -> Iterator[Job]:
    heard_s = time.monotonic()
    while True:
        try:
            job = look()
        except (redis.ConnectionError, redis.TimeoutError):  # a broker that is started again is back soon
            if time.monotonic() - heard_s > MAX_SILENCE_S:
                raise
        else:
            heard_s = time.monotonic()
            yield job
            if job.is_ended:
                return
        time.sleep(POLL_S)


def _panel(job: Job, silence_s: float) -> Group:
    current = TASKS.index(job.task)
    marks = ["done" if n < current or job.state == "done" else "" for n in range(len(TASKS))]
    if job.state != "done":
        marks[current] = state_of(job, silence_s)
    chain = " > ".join(f"{task} ({mark})" if mark else task for task, mark in zip(TASKS, marks, strict=True))
    parts: list[Text | Table] = [Text(f"{job.id}: {chain}")]
    if job.progress:
        parts.append(_bars(job))
    if job.width > 1:
        nodes = ", ".join(f"{node.queue} {node.state} {node.worker}".strip() for node in job.nodes)
        parts.append(Text(f"nodes: {nodes}"))
    if job.error:
        tries = f" (try {job.attempts + 1})" if job.attempts and not job.is_ended else ""
        parts.append(Text(f"error{tries}: {job.error}"))
    return Group(*parts)


def _bars(job: Job) -> Table:
    table = Table.grid(padding=(0, 1))
    for stage in sorted(job.progress, key=lambda stage: TASKS.index(_task_of(stage))):
        progress = job.progress[stage]
        bar = ProgressBar(total=progress.steps or None, completed=progress.step, width=BAR_WIDTH, pulse=False)
        table.add_row(Text(stage, justify="right"), bar, f"{progress.step}/{progress.steps or '?'}", _figures(progress))
    return table


def _latest(job: Job) -> str:
    stages = [stage for stage in job.progress if _task_of(stage) == job.task]
    open_stages = [s for s in stages if job.progress[s].step < job.progress[s].steps] or stages[-1:]
    shown = [(stage, job.progress[stage]) for stage in open_stages]
    return ", ".join(f"{stage} {p.step}/{p.steps or '?'} {_figures(p)}".strip() for stage, p in shown)


def _task_of(stage: str) -> str:
    """A tuning recipe's stages have names of their own."""
    known = {name: task for task, names in TASK_STAGES.items() for name in names}
    return {**known, "mix": "prepare"}.get(stage, SPREAD)


def _figures(progress: StageProgress) -> str:
    return "  ".join(f"{key} {value:.3f}" for key, value in progress.figures.items() if key not in HIDDEN_FIGURES)


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
