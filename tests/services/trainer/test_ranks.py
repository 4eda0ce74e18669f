"""Joining a group: what does not fit is said before anything starts, and who is missing."""

import datetime
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from services.trainer.distribution import Distribution
from services.trainer.ranks import ALONE, is_lost_touch, joined
from triptych.errors import InvalidArgument, Unavailable

ROOT = Path(__file__).parents[3]
ONE_IS_KILLED = """
import os, signal, torch
from services.trainer.distribution import Distribution
from services.trainer.ranks import joined
with joined(Distribution(num_processes=2, device="cpu"), 200) as ranks:
    assert ranks.sum(torch.ones(1)).item() == 2
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.sum(torch.ones(1))
"""


def join(distribution: Distribution | None, timeout_s: float = 1) -> None:
    with joined(distribution, timeout_s):
        pytest.fail("it should not have joined")


def environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torch's launcher sets."""
    return {
        "TORCHELASTIC_RUN_ID": "run",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
    }


def launched(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int, port: int = 0) -> None:
    for key, value in environment(rank, world_size, port).items():
        monkeypatch.setenv(key, value)


def meeting_place() -> dist.TCPStore:  # type: ignore[name-defined]
    timeout = datetime.timedelta(seconds=60)
    return dist.TCPStore("127.0.0.1", 0, None, True, timeout, wait_for_workers=False)  # type: ignore[attr-defined]


def test_without_a_distribution_there_is_no_group() -> None:
    with joined(None) as ranks:
        assert ranks == ALONE
        assert not dist.is_initialized()


def test_one_rank_is_a_group_that_ends_with_the_block() -> None:
    for _ in range(2):
        with joined(Distribution(device="cpu")) as ranks:
            assert (ranks.rank, ranks.world_size, ranks.device) == (0, 1, torch.device("cpu"))
            assert dist.get_world_size() == 1
        assert not dist.is_initialized()


def test_too_few_processes() -> None:
    with pytest.raises(InvalidArgument, match="num_nodes x num_processes is 6, but 1 processes were started"):
        join(Distribution(num_nodes=2, num_processes=3, device="cpu"))


def test_processes_without_a_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, 0, 2)
    with pytest.raises(InvalidArgument, match="num_nodes x num_processes is 1, but 2 processes were started"):
        join(None)


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    visible = torch.cuda.device_count()
    launched(monkeypatch, 0, visible + 1)
    with pytest.raises(InvalidArgument, match=f"num_processes {visible + 1} is more than the {visible} GPUs"):
        join(Distribution(num_processes=visible + 1, device="cuda"))


def test_ranks_that_do_not_come_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    store = meeting_place()
    launched(monkeypatch, 0, 3, store.port)
    with pytest.raises(Unavailable, match=r"rank 1, 2 of 3 has not come within 1 s"):
        join(Distribution(num_processes=3, device="cpu"))


def test_a_rank_that_loses_the_others_says_so() -> None:
    store = meeting_place()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_IS_KILLED],
            cwd=ROOT,
            env={**os.environ, **environment(rank, 2, store.port), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=240)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [1, -signal.SIGKILL], said
    assert "Unavailable: rank 0 of 2 has lost the others: " in said[0]


def test_other_errors_are_not_taken_for_that() -> None:
    assert not is_lost_touch(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert is_lost_touch(dist.DistNetworkError("the client socket has timed out"))
