"""From a recipe file to a job; all that can be wrong with it is found here, before anything is queued."""

import hashlib
import re
import secrets
import time
from pathlib import Path

from services.trainer.app import DEFAULT_QUEUE
from services.trainer.jobs.record import Job, Node
from services.trainer.jobs.store import JobStore
from services.trainer.recipe import AnyRecipe, read_recipe
from services.trainer.stages import graph
from triptych.errors import FailedPrecondition, InvalidArgument


def submit_recipe(store: JobStore, path: Path, queues: tuple[str, ...]) -> Job:
    """A new job, not yet launched. Raises InvalidArgument for a wrong recipe, and FailedPrecondition where another job
    is at work in the same folder."""
    recipe = read_recipe(path)
    recipe.check()
    text = path.read_text(encoding="utf-8")
    job_id = f"{re.sub('[^a-z0-9]+', '-', recipe.name.lower()).strip('-')}-{secrets.token_hex(3)}"
    job = Job(
        id=job_id,
        recipe=str(path.absolute()),
        recipe_digest=text_digest(text),
        folder=str(Path.cwd()),
        files=str((recipe.runs / "jobs" / job_id).absolute()),
        output=str(recipe.folder.resolve()),
        nodes=tuple(Node(queue=queue) for queue in node_queues(recipe, queues)),
        created_s=time.time(),
        changed_s=time.time(),
    )
    store.add(job, text)
    return job


def node_queues(recipe: AnyRecipe, queues: tuple[str, ...]) -> tuple[str, ...]:
    """One for each node. Raises InvalidArgument when there are not as many."""
    spread = [recipe.distribution(stage) for stage in graph(recipe).tasks["train"]]
    num_nodes = max((distribution.num_nodes for distribution in spread if distribution), default=1)
    if num_nodes == 1 and not queues:
        return (DEFAULT_QUEUE,)
    if len(queues) != num_nodes or len(set(queues)) != num_nodes:
        raise InvalidArgument(f"--queue: {len(queues)} given, the recipe wants {num_nodes} different ones, one a node")
    return queues


def check_unchanged(job: Job, given: Path | None) -> None:
    """Raises FailedPrecondition when the recipe's file, or the given one, is not what the job was submitted with.

    The former may be gone, for the job has its text; raises InvalidArgument when the latter is."""
    path = given or Path(job.recipe)
    if given and not given.is_file():
        raise InvalidArgument(f"recipe {given} does not exist")
    if path.exists() and (digest := text_digest(path.read_text("utf-8", errors="replace"))) != job.recipe_digest:
        raise FailedPrecondition(
            f"{path} is not what job {job.id} was submitted with (now {digest[:12]}, then {job.recipe_digest[:12]}): "
            "put it back, or submit it as a new job"
        )


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
