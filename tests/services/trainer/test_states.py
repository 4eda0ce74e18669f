"""Training states of several ranks: any rank may die, the disk may be full, the number of ranks may change."""

import re
import shutil
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from services.trainer.distribution import Distribution
from services.trainer.launch import Rendezvous
from services.trainer.ranks import ALONE, joined
from services.trainer.states import States
from tests.services.trainer.ranked_runs import DROPOUT, TWO, Made, close, start
from tests.services.trainer.toy_ranks import STEPS, Run, train
from triptych.errors import CheckpointError

ONE = {"device": "cpu", "precision": "f32"}


def same(one: Made, other: Made) -> None:
    assert all(torch.equal(weight, one.weights[key]) for key, weight in other.weights.items())
    assert other.losses == one.losses[-len(other.losses) :]


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_two_nodes_go_on_to_the_same_weights(
    made: Mapping[str, Made], tmp_path: Path
) -> None:
    killed = Made(tmp_path / "run")
    run = Run(str(killed.folder), TWO, DROPOUT, kill=[1, 10])
    assert start([run]).returncode != 0
    assert not (killed.folder / "done.json").exists()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = Rendezvous(f"127.0.0.1:{free.getsockname()[1]}", "again")
    again = [Run(str(killed.folder), TWO, DROPOUT)]
    with ThreadPoolExecutor() as nodes:
        done = [nodes.submit(start, again, True, meeting, node_rank) for node_rank in (1, 0)]
        printed = [node.result().stdout for node in done]
    assert printed[0] == ""  # rank 0 alone speaks, on node 0
    assert printed[1].count("\n") >= 2
    assert len(killed.losses) in (STEPS - 9, STEPS - 6)  # the save of step 9 may or may not have been through
    same(made["dropout"], killed)


def test_a_full_disk_stops_every_rank_and_costs_no_more_than_the_steps_since(made: Mapping[str, Made]) -> None:
    full, again = made["full disk"], made["full disk, gone on"]
    first, second = full.said()
    failed = int(re.findall(r"the training state of step (\d+) could not be written", first["error"])[0])
    assert failed in (9, 12)  # saving goes on beside step 10, in which the disk is full
    assert first["error"].startswith("ResourceExhausted: ")
    assert re.search(r"rank 1: .*File too large; the last whole one is step-0+" + str(failed - 3), first["error"])
    assert second["error"] == first["error"]
    assert [int(state[-2:]) for state in first["states"] if state != "LAST"] == [failed - 6, failed - 3]
    assert len(again.losses) == STEPS - (failed - 3)
    same(made["dropout"], again)


def test_other_settings_are_refused_and_nothing_is_overwritten(made: Mapping[str, Made]) -> None:
    sharded = made["sharded"]
    assert len(sharded.said()) == 2
    for said in sharded.said():
        assert said["error"].startswith(
            f"InvalidArgument: {sharded.folder}/states/step-00000020 was made by settings d"
        )
        assert said["states"] == sharded.states
    assert len(sharded.states) == 1 + 7  # keep_checkpoints 9


def test_the_newest_are_kept(made: Mapping[str, Made]) -> None:
    assert made["copied"].states == ["LAST", "step-00000018", "step-00000020"]


def test_one_rank_goes_on_from_the_state_of_two(made: Mapping[str, Made], tmp_path: Path) -> None:
    resumed = Made(tmp_path)
    shutil.copytree(made["sharded"].folder / "states", tmp_path / "states")
    (tmp_path / "states" / "LAST").write_text("step-00000009\n")
    with joined(Distribution.model_validate(ONE)) as ranks:
        train(Run(str(tmp_path), ONE), ranks)
    assert resumed.losses == pytest.approx(made["alone"].losses[9:], abs=1e-5)
    close(resumed.weights, made["sharded"].weights, 1e-5)
    assert resumed.states == ["LAST", "step-00000018", "step-00000020"]


def saved(folder: Path) -> Path:
    """The state of step 3."""
    states = States(folder, "d", ALONE, keep=1)
    states.open()
    states.save(3, {"weights": torch.ones(1000)})
    states.finish()
    return folder / "step-00000003"


@pytest.mark.parametrize("left", [None, 0.0, 0.5], ids=["missing", "empty", "truncated"])
@pytest.mark.parametrize("name", ["about.json", ".metadata", "__0_0.distcp"])
def test_a_damaged_state_is_named(name: str, left: float | None, tmp_path: Path) -> None:
    path = saved(tmp_path) / name
    data = path.read_bytes()
    path.unlink() if left is None else path.write_bytes(data[: int(left * len(data))])
    states = States(tmp_path, "d", ALONE, keep=1)
    with pytest.raises(CheckpointError, match=r"step-00000003 cannot be read.*: [^: ]+.*[^: ]$"):  # with a reason
        step = states.open()
        assert step == 3
        states.load(step, {key: torch.zeros(shape) for key, shape in states.tensors(step).items()})
    assert path.parent.is_dir()


@pytest.mark.parametrize("last", ["", "step-00000004"])
def test_a_mark_that_names_no_state_costs_none(last: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    (tmp_path / "LAST").write_text(f"{last}\n")
    with pytest.raises(CheckpointError, match="cannot be read, though LAST names it"):
        States(tmp_path, "d", ALONE, keep=1).open()
    assert path.is_dir()


def test_what_is_saved_is_what_was_there_when_saving_began(tmp_path: Path) -> None:
    states = States(tmp_path, "d", ALONE, keep=1)
    assert states.open() is None
    weights = torch.ones(1_000_000)
    states.save(3, {"weights": weights})
    weights.fill_(2.0)
    states.finish()
    assert States(tmp_path, "d", ALONE, keep=1).open() == 3
    read = torch.zeros(1_000_000)
    states.load(3, {"weights": read})
    assert torch.equal(read, torch.ones(1_000_000))
