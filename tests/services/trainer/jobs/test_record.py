"""The state machine of a job, with made-up clocks."""

from services.trainer.jobs.record import MAX_ATTEMPTS, TASKS, Job, Node, StageProgress


def new_job(*queues: str) -> Job:
    return Job(
        id="tiny-1",
        recipe="/r.toml",
        recipe_digest="0",
        folder="/",
        files="/f",
        output="/o",
        nodes=tuple(Node(queue=queue) for queue in queues or ("triptych",)),
        created_s=1.0,
        changed_s=1.0,
    ).launched(2.0)


def at(job: Job, task: str) -> Job:
    return job.model_copy(update={"task": task})


def join_all(job: Job, now_s: float) -> Job:
    for index in range(job.width):
        job = job.joined(index, f"w{index}", f"h:{index}", now_s)
    return job


def test_from_the_first_task_to_the_last() -> None:
    job, seen = new_job(), []
    while not job.is_ended:
        job = join_all(job, 3.0)
        assert job.state == "running"
        seen.append((job.task, job.launch))
        job = job.node_done(0, 4.0)
    assert seen == [(task, number) for number, task in enumerate(TASKS, start=1)]
    assert (job.state, job.started_s, job.finished_s) == ("done", 3.0, 4.0)


def test_all_nodes_or_none() -> None:
    job = at(new_job("a", "b"), "train")
    assert job.width == 2
    job = job.joined(1, "w1", "h1:1", 3.0)
    assert job.state == "queued"
    job = job.joined(0, "w0", "h0:7", 4.0)
    assert (job.state, job.rendezvous) == ("running", "h0:7")
    job = job.node_done(0, 5.0)
    assert (job.state, job.task) == ("running", "train")
    job = job.node_done(1, 6.0)
    assert (job.state, job.task, job.width) == ("queued", "evaluate", 1)
    assert [node.state for node in job.nodes] == ["waiting", "waiting"]


def test_a_crash_of_one_node_launches_all_anew() -> None:
    job = join_all(at(new_job("a", "b"), "train"), 3.0)
    after = job.crashed("node 1 died", 5.0)
    assert (after.state, after.launch, after.error) == ("queued", job.launch + 1, "node 1 died")
    assert [node.state for node in after.nodes] == ["waiting", "waiting"]


def test_crashes_are_counted_until_it_gets_further() -> None:
    job = at(new_job(), "train")
    for attempt in range(1, MAX_ATTEMPTS):
        job = join_all(job, 3.0).crashed("boom", 4.0)
        assert (job.state, job.attempts) == ("queued", attempt)
    further = job.alive(0, {"vae": StageProgress(step=5, steps=9)}, 5.0).crashed("boom", 6.0)
    assert (further.state, further.attempts) == ("queued", 1)
    assert further.crashed("boom", 6.0).attempts == 2  # the same five steps again are no progress
    given_up = job.crashed("boom", 6.0)
    assert (given_up.state, given_up.error) == ("failed", "boom")


def test_each_node_shows_its_own_signs_of_life() -> None:
    job = join_all(at(new_job("a", "b"), "train"), 10.0).alive(0, {}, 100.0)
    assert job.silent_nodes(101.0, 60.0) == [1]
    assert job.silent_nodes(101.0, 95.0) == []
    assert job.node_done(1, 100.0).silent_nodes(101.0, 60.0) == []  # nothing more is expected of it


def test_resuming_goes_on_with_the_same_task() -> None:
    failed = join_all(at(new_job(), "evaluate"), 3.0).ended("failed", 4.0, "no")
    assert failed.is_ended
    again = failed.resumed(9.0)
    assert (again.state, again.task, again.launch) == ("queued", "evaluate", failed.launch + 1)
    assert (again.error, again.finished_s, again.attempts) == ("", None, 0)


def test_it_survives_being_written_down() -> None:
    job = join_all(new_job("a", "b"), 3.0).alive(0, {"vae": StageProgress(step=1, steps=2, figures={"loss": 0.5})}, 4.0)
    assert Job.model_validate_json(job.model_dump_json()) == job
