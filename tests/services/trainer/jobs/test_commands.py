"""`triptych train` as it is typed: what it prints, and its exit codes."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.trainer.data.mix import Mix
from services.trainer.prepare import prepare
from tests.services.trainer.jobs.bench import QUICK, ROOT, Bench
from tests.services.trainer.jobs.test_settings import LEASE_IS_ABC
from tests.services.trainer.test_prepare import write_toml


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("commands"))
    yield bench
    bench.close()


def test_submit_brings_its_own_broker_and_worker(bench: Bench) -> None:
    recipe = bench.recipe("first", vae={"steps": 3})
    job_id, said = bench.train("submit", str(recipe))
    assert job_id.startswith("first-")
    assert "started a worker (pid " in said
    lines = bench.train("status", job_id)[0].splitlines()
    assert lines[-1] == "done  publish  publish 1/1"
    shown = json.loads(bench.train("status", job_id, "--json")[0])
    assert (shown["state"], shown["progress"]["vae"]["step"]) == ("done", 3)
    assert bench.train("list")[0].splitlines()[1].split("\t")[:2] == [job_id, "done"]
    assert "is done" in bench.train("cancel", job_id, code=1)[1]
    assert "is done" in bench.train("resume", job_id, code=1)[1]
    assert "stopped worker" in bench.train("stop")[1]
    again = bench.train("list")[0]  # from the append-only file
    assert job_id in again


def test_resume_refuses_another_recipe(bench: Bench) -> None:
    bench.broker.ready()
    job_id = bench.launch("changing")
    bench.train("cancel", job_id)
    recipe = bench.folder / "changing.toml"
    text = recipe.read_text()
    recipe.write_text(text + "# and more\n")
    assert "is not what job" in bench.train("resume", job_id, code=1)[1]
    assert bench.store.get(job_id).state == "cancelled"
    assert bench.store.recipe_text(job_id) == text


def test_one_job_at_a_time_in_a_folder(bench: Bench) -> None:
    bench.broker.ready()
    job_id = bench.launch("shared")
    assert f"job {job_id} is queued" in bench.train("submit", str(bench.folder / "shared.toml"), code=1)[1]
    (bench.folder / "link").symlink_to("runs")
    for same in ("link", "broker/../runs"):
        recipe = bench.recipe("shared", runs=str(bench.folder / same))
        assert f"job {job_id} is queued" in bench.train("submit", str(recipe), code=1)[1]
    bench.train("cancel", job_id)
    other = bench.launch("shared")
    assert f"job {other} is " in bench.train("resume", job_id, code=1)[1]
    assert bench.store.get(job_id).state == "cancelled"


def test_prepare_is_done_by_the_workers(bench: Bench) -> None:
    mix, out = write_toml(bench.folder), bench.folder / "mix"
    card, said = bench.train("prepare", str(mix), "-o", str(out))
    assert card == str(out / "card.html")
    assert "write: 20 of 20" in said
    alone = prepare(Mix.read(mix), bench.folder / "alone", 1, bench.folder)
    assert (alone.out / "index.json").read_bytes() == (out / "index.json").read_bytes()
    assert "nothing.toml does not exist" in bench.train("prepare", "nothing.toml", "-o", str(out), code=2)[1]


def test_prepare_says_that_the_broker_is_gone(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    try:
        url = ["--broker", bench.broker.url]  # as someone else's: nobody starts it again
        out = ["-o", str(tmp_path / "mix")]
        command = [sys.executable, "-m", "services.trainer.jobs", "prepare", str(write_toml(tmp_path)), *out, *url]
        process = subprocess.Popen(command, cwd=tmp_path, env=bench.environment, stderr=subprocess.PIPE, text=True)
        bench.wait(lambda: bench.store.redis.llen("triptych"))
        bench.kill_broker()
        errors = process.communicate(timeout=120)[1]
    finally:
        bench.close()
    assert process.returncode == 3, errors
    assert errors.splitlines()[-1].startswith("error: the broker: ")
    assert "Traceback" not in errors


def test_what_is_not_there_is_said_at_once(bench: Bench) -> None:
    start_s = time.monotonic()
    assert "no job 'nobody'" in bench.train("status", "nobody", code=2)[1]
    said = bench.train("list", "--broker", "redis://someone:secret@host:port/0", code=2)[1]
    assert said.startswith("error: broker redis://host:port/0: Port could not be cast")
    said = bench.train("list", "--broker", "redis://someone:secret@127.0.0.1:9/0", code=3)[1]
    assert "redis://127.0.0.1:9/0 cannot be reached" in said
    assert "secret" not in said
    assert time.monotonic() - start_s < 30


def test_what_is_typed_wrong_is_one_line(bench: Bench) -> None:
    bench.broker.ready()
    job_id = bench.launch("typed", "a queue without workers")
    for complaint, *arguments in (
        ("recipe typo.toml does not exist", "resume", job_id, "--recipe", "typo.toml"),
        ("--address 192.0.2.1 is none of this machine's", "worker", "--address", "192.0.2.1"),
    ):
        said = bench.train(*arguments, code=2)[1]
        assert said.startswith(f"error: {complaint}")
        assert len(said.splitlines()) == 1
    bench.environment["TRIPTYCH_JOBS_LEASE_S"] = "abc"
    said = bench.train("list", code=2)[1]
    bench.environment["TRIPTYCH_JOBS_LEASE_S"] = QUICK["LEASE_S"]
    assert said.splitlines() == [f"error: {LEASE_IS_ABC}"]
    assert bench.store.get(job_id).launch == 1


def test_triptych_train_is_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from triptych.cli import main; main()", "train", "submit", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Usage: triptych train submit" in done.stdout
