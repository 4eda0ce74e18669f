"""The trainer's own command: what it refuses at once, rather than to wait for nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from services.trainer import __main__ as command
from services.trainer.pipeline import Node
from tests.services.trainer.test_pipeline import toml
from tests.services.trainer.tiny_recipe import tiny_values

MEET = ("--rendezvous", "127.0.0.1:29500")


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.toml"
    path.write_text(toml(tiny_values(out=str(tmp_path / "out"), runs=str(tmp_path / "runs"))))
    return str(path)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Node | None]]:
    """Threads and node of every run that would begin."""
    seen: list[tuple[int, Node | None]] = []

    def run_stages(recipe: Any, path: Path, stages: Sequence[str], threads: int, display: Any, node: Any) -> None:
        seen.append((threads, node))

    monkeypatch.setattr(command, "run_stages", run_stages)
    return seen


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--node-rank", "1"), "error: --node-rank 1 is nothing without --rendezvous"),
        (("--node-rank", "0"), "error: --node-rank 0 is nothing without --rendezvous"),
        (("--rendezvous", "node-0"), "error: --rendezvous node-0 must be host:port"),
        (("--rendezvous", "node-0:99999"), "error: --rendezvous node-0:99999 must be host:port"),
        ((*MEET, "--node-rank", "1"), "error: --node-rank 1 is not in 0..0: the recipe's num_nodes is 1"),
        ((*MEET, "--node-rank", "-1"), "error: --node-rank -1 is not in 0..0"),
    ],
)
def test_nodes_that_would_wait_for_ever(
    options: tuple[str, ...], said: str, recipe: str, started: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([recipe, *options]) == 2
    assert capsys.readouterr().err.startswith(said)
    assert not started


@pytest.mark.parametrize("threads", ["0", "-1", "many"])
def test_no_threads(threads: str, recipe: str, started: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([recipe, "--threads", threads])
    assert ended.value.code == 2
    assert "--threads" in capsys.readouterr().err
    assert not started


def test_nodes_that_have_work(recipe: str, started: list[Any]) -> None:
    assert command.main([recipe]) == 0
    assert command.main([recipe, *MEET, "--threads", "3"]) == 0
    assert command.main([recipe, *MEET, "--node-rank", "0"]) == 0
    node = Node(0, MEET[1])
    assert started == [(0, None), (3, node), (0, node)]
