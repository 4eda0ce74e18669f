"""Real training, disturbed: the weights it ends with are those of a run that nobody touched, to the bit."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.trainer.config import Recipe
from services.trainer.stages import is_done
from tests.services.trainer.jobs import one_stage_trainer
from tests.services.trainer.jobs.bench import ROOT, Bench

TRAINER = f"{sys.executable} {one_stage_trainer.__file__}"
STEPS = {"vae": {"steps": 20, "save_every": 1}}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("weights"), trainer=TRAINER)
    yield bench
    bench.close()


def weights(bench: Bench, name: str) -> dict[str, bytes]:
    """Every weight file that the stage has left, by name."""
    recipe = Recipe.read(bench.folder / f"{name}.toml")
    assert is_done(recipe, one_stage_trainer.STAGE)
    out = recipe.folder / one_stage_trainer.STAGE / "out"
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*.safetensors"))}


@pytest.mark.slow
def test_kills_leave_no_trace_in_the_weights(bench: Bench) -> None:
    command = [*TRAINER.split(), str(bench.recipe("untouched", **STEPS)), "--task", "train"]
    subprocess.run(command, cwd=ROOT, env=bench.environment, check=True, stdout=subprocess.DEVNULL)
    wanted = weights(bench, "untouched")
    assert wanted

    worker = bench.start_worker()
    job_id = bench.launch("workerless", **STEPS)
    wait_for_state(bench, "workerless")
    os.kill(worker.pid, signal.SIGKILL)
    bench.wait(lambda: not bench.left(job_id))
    assert not is_done(Recipe.read(bench.folder / "workerless.toml"), "vae")
    bench.start_worker()
    assert bench.wait_for(job_id, "done").launch == 6  # one more than there are tasks
    assert weights(bench, "workerless") == wanted

    job_id = bench.launch("brokerless", **STEPS)
    wait_for_state(bench, "brokerless")
    bench.kill_broker()
    assert bench.wait_for(job_id, "done").launch == 5
    assert weights(bench, "brokerless") == wanted


def wait_for_state(bench: Bench, name: str) -> None:
    """Until the training has saved its first step."""
    folder: Path = bench.runs / name / one_stage_trainer.STAGE
    bench.wait(lambda: any(folder.glob("state*")))


def test_a_stage_that_something_killed_is_told_from_one_that_failed(bench: Bench) -> None:
    """By the exit code: only the first is worth another try."""
    recipe = bench.recipe("shot", **STEPS)
    command = [sys.executable, "-m", "services.trainer", str(recipe), "--json"]
    trainer = subprocess.Popen(command, cwd=ROOT, env=bench.environment, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{trainer.pid}/task/{trainer.pid}/children")
    bench.wait(lambda: children.read_text().split())
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    _, errors = trainer.communicate(timeout=60)
    assert trainer.returncode == 3
    assert "was ended by SIGKILL" in errors
