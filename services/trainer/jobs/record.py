"""What is known of a job, and how it may change: a state machine without a clock, a queue or a store.

prepare -> train -> evaluate -> export -> publish, one task after the other. Every time a task is put into the queue is
a *launch* with a number of its own; whoever still works for an older one stops.
"""

from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from services.trainer.stages import TASKS as TASK_STAGES

TASKS: Final = tuple(TASK_STAGES)
SPREAD: Final = "train"  # the task that runs on all nodes at once; the others run on the first
MAX_ATTEMPTS: Final = 4  # of a task that ends in a crash without having gone beyond where it was before

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED: Final = ("done", "failed", "cancelled")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Node(_Frozen):
    """One machine's part of a launch."""

    queue: str
    state: Literal["waiting", "ready", "done"] = "waiting"
    worker: str = ""
    address: str = Field("", description="host:port, free there when it became ready")
    heartbeat_s: float = Field(0.0, description="last sign of life of its supervisor")


class StageProgress(_Frozen):
    """How far a stage is, and its latest figures."""

    step: int = 0
    steps: int = Field(0, description="0: not known yet")
    figures: dict[str, float] = Field(default_factory=dict)


class Job(_Frozen):
    """One training run asked for. Times are seconds since 1970."""

    id: str
    recipe: str = Field(description="the file it was submitted from, absolute")
    recipe_digest: str = Field(description="SHA-256 of that file's text")
    folder: str = Field(description="the working directory, absolute: the recipe's paths start there")
    files: str = Field(description="folder of the job's recipe and logs, absolute")
    output: str = Field(description="the run's folder, without links; one live job each")
    state: State = "queued"
    task: str = TASKS[0]
    launch: int = 0
    attempts: int = Field(0, description="crashes since the furthest step moved")
    furthest: int = Field(0, description="steps of all stages at the last crash")
    nodes: tuple[Node, ...] = Field(min_length=1)
    progress: dict[str, StageProgress] = Field(default_factory=dict)
    error: str = Field("", description="of the last failure or crash; also while it is tried again")
    cancel_requested: bool = False
    created_s: float
    changed_s: float = Field(description="last change of state, task or launch")
    started_s: float | None = None
    finished_s: float | None = None

    @property
    def is_ended(self) -> bool:
        return self.state in ENDED

    @property
    def width(self) -> int:
        """Nodes that the current task runs on."""
        return len(self.nodes) if self.task == SPREAD else 1

    @property
    def rendezvous(self) -> str:
        """Where the ranks of all nodes meet: an address of the first node."""
        return self.nodes[0].address

    @property
    def steps_done(self) -> int:
        return sum(stage.step for stage in self.progress.values())

    def silent_nodes(self, now_s: float, silence_s: float) -> list[int]:
        """Those that should be at work and have shown no sign of life for so long."""
        at_work = [i for i, node in enumerate(self.nodes[: self.width]) if node.state == "ready"]
        return [i for i in at_work if now_s - self.nodes[i].heartbeat_s > silence_s]

    def launched(self, now_s: float, task: str = "") -> Self:
        """The task goes into the queue again, or for the first time."""
        nodes = tuple(Node(queue=node.queue) for node in self.nodes)
        update = {"state": "queued", "task": task or self.task, "launch": self.launch + 1, "nodes": nodes}
        return self.model_copy(update={**update, "changed_s": now_s})

    def joined(self, index: int, worker: str, address: str, now_s: float) -> Self:
        """A node is ready. With the last one the task runs: all of them or none."""
        node = self.nodes[index].model_copy(
            update={"state": "ready", "worker": worker, "address": address, "heartbeat_s": now_s}
        )
        job = self._with_node(index, node)
        if any(node.state != "ready" for node in job.nodes[: job.width]):
            return job
        return job.model_copy(
            update={"state": "running", "changed_s": now_s, "started_s": job.started_s or now_s},
        )

    def alive(self, index: int, progress: dict[str, StageProgress], now_s: float) -> Self:
        """A node's sign of life, with what has been heard since the last one."""
        job = self._with_node(index, self.nodes[index].model_copy(update={"heartbeat_s": now_s}))
        return job.model_copy(update={"progress": {**self.progress, **progress}})

    def node_done(self, index: int, now_s: float) -> Self:
        """A node has finished the task. With the last one the next task is launched, or the job done."""
        job = self._with_node(index, self.nodes[index].model_copy(update={"state": "done"}))
        if any(node.state != "done" for node in job.nodes[: job.width]):
            return job
        job = job.model_copy(update={"attempts": 0, "furthest": 0, "error": ""})
        following = TASKS.index(self.task) + 1
        return job.launched(now_s, TASKS[following]) if following < len(TASKS) else job.ended("done", now_s)

    def crashed(self, error: str, now_s: float) -> Self:
        """Tried again from its last checkpoint, unless it has come no further for too many times."""
        attempts = 1 if self.steps_done > self.furthest else self.attempts + 1
        update = {"attempts": attempts, "furthest": max(self.furthest, self.steps_done), "error": error}
        job = self.model_copy(update=update)
        return job.launched(now_s) if attempts < MAX_ATTEMPTS else job.ended("failed", now_s, error)

    def ended(self, state: State, now_s: float, error: str = "") -> Self:
        """For good, until someone resumes it."""
        assert state in ENDED
        update = {"state": state, "error": error, "finished_s": now_s, "changed_s": now_s, "cancel_requested": False}
        return self.model_copy(update=update)

    def resumed(self, now_s: float) -> Self:
        """The task that was under way is launched again, its attempts counted anew."""
        update = {"attempts": 0, "furthest": 0, "error": "", "cancel_requested": False, "finished_s": None}
        return self.model_copy(update=update).launched(now_s)

    def _with_node(self, index: int, node: Node) -> Self:
        return self.model_copy(update={"nodes": (*self.nodes[:index], node, *self.nodes[index + 1 :])})
