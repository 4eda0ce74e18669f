"""The command of a stage: one process, one node of many ranks, one node of several."""

import subprocess
import sys
from pathlib import Path

import pytest

from services.trainer.config import Recipe
from services.trainer.distribution import Distribution
from services.trainer.launch import Rendezvous, command
from services.trainer.pipeline import Running, failure_of, run_stages
from services.trainer.progress import Lines
from tests.services.trainer.test_pipeline import toml
from tests.services.trainer.tiny_recipe import tiny_recipe, tiny_values
from triptych.errors import FailedPrecondition, InvalidArgument, Unavailable

RECIPE = Path("recipe.toml")
WORKER = ["-m", "services.trainer", "recipe.toml", "--stage", "llm"]
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("distribution", [None, Distribution()])
def test_one_process(distribution: Distribution | None) -> None:
    assert command(RECIPE, "llm", distribution) == [sys.executable, *WORKER]
    assert command(RECIPE, "llm", distribution, threads=3) == [sys.executable, *WORKER, "--threads", "3"]


def test_one_node() -> None:
    made = command(RECIPE, "llm", Distribution(num_processes=4))
    assert made[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert made[3:-5] == ["--nnodes", "1", "--nproc-per-node", "4", "--max-restarts", "0", "--standalone"]
    assert made[-5:] == WORKER


def test_one_of_several_nodes() -> None:
    made = [command(RECIPE, "llm", Distribution(num_nodes=2), Rendezvous("node-0:29500", "j"), rank) for rank in (0, 1)]
    for rank, argv in enumerate(made):
        assert argv[argv.index("--rdzv-endpoint") + 1] == "node-0:29500"
        assert argv[argv.index("--rdzv-id") + 1] == "j"
        assert argv[argv.index("--node-rank") + 1] == str(rank)
        assert argv[-5:] == WORKER


def test_nodes_that_cannot_meet() -> None:
    two = Distribution(num_nodes=2)
    with pytest.raises(InvalidArgument, match="num_nodes is 2: a rendezvous"):
        command(RECIPE, "llm", two)
    with pytest.raises(InvalidArgument, match=r"node_rank 2 is not in 0\.\.1"):
        command(RECIPE, "llm", two, Rendezvous("node-0:29500", "j"), 2)


def test_several_nodes_need_a_place_to_meet(tmp_path: Path) -> None:
    recipe = tiny_recipe(runs=str(tmp_path), llm={"distribution": {"num_nodes": 2}})
    with pytest.raises(InvalidArgument, match=r"llm\.distribution\.num_nodes is 2: this command is needed on each"):
        run_stages(recipe, RECIPE, ["llm"], 1, Lines())


def test_a_stage_for_one_process_says_so(tmp_path: Path) -> None:
    """By the trainer's own command before any work; and by two ranks: what they say, once, and not the launcher's page
    about it."""
    values = tiny_values(runs=str(tmp_path), vae={"distribution": {"num_processes": 2, "device": "cpu"}})
    path = tmp_path / "recipe.toml"
    path.write_text(toml(values))
    argv = [sys.executable, "-m", "services.trainer", str(path), "--threads", "1"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    said = "error: vae.distribution: this stage trains in one process only"
    assert (done.returncode, done.stderr.strip()) == (2, said)
    with pytest.raises(FailedPrecondition) as failed:
        run_stages(Recipe.read(path), path, ["vae"], 1, Lines())
    lines = str(failed.value).splitlines()
    assert lines[0].startswith("stage vae failed (log: ")
    assert lines[1:] == [said]


@pytest.mark.parametrize(
    ("codes", "is_final"),
    [((-9,), False), ((3, -15), False), ((3,), False), ((2, 3), True), ((1, -15), True), ((), True)],
)
def test_who_is_not_to_blame_may_try_again(codes: tuple[int, ...], is_final: bool, tmp_path: Path) -> None:
    """As the log of torch's launcher has it."""
    log = tmp_path / "vae.log"
    log.write_text("of an earlier run:\n  exitcode  : 1 (pid: 1)\n")
    start = log.stat().st_size
    with log.open("a") as file:
        file.writelines(f"  rank      : 0\n  exitcode  : {code} (pid: 7)\n" for code in codes)
    process = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(1)"])
    process.wait()
    failure = failure_of(Running("vae", process, log, start, is_first=True))
    assert isinstance(failure, FailedPrecondition if is_final else Unavailable)
    assert str(log) in str(failure)
