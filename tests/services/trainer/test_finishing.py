"""The last stages, on a checkpoint of random weights: its figures, exports, and what publishing does not overwrite."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from services.trainer.config import Recipe
from services.trainer.evaluators import BLOCKS, REPORTED
from services.trainer.finishing import evaluate, export, publish
from tests.services.trainer.tiny_recipe import tiny_recipe
from tests.tiny import write_tiny_checkpoint
from triptych.card import read_card, verify_digest
from triptych.errors import FailedPrecondition


def assembled(folder: Path, **changed: Any) -> Recipe:
    """A recipe whose checkpoint stage has written its folder."""
    recipe = tiny_recipe(runs=str(folder / "runs"), out=str(folder / "published"), **changed)
    write_tiny_checkpoint(recipe.folder / "checkpoint" / "out")
    return recipe


def ignore(figures: dict[str, float]) -> None:
    """A run nobody watches."""


def test_the_report_is_written_and_the_gate_holds(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = assembled(tmp_path, evaluate={"num_scenes": 10, "gate": {"questions": 1.0}})
    seen: list[dict[str, float]] = []
    with pytest.raises(FailedPrecondition, match=r"evaluate missed its gate: questions 0\.0000 < 1\.0"):
        evaluate(recipe, tmp_path, seen.append)
    assert seen[-1] == {"step": 40, "steps": 40}
    values = json.loads((tmp_path / "evaluation.json").read_text())
    assert values["evaluators"]["blocks-questions"]["figures"]["questions"]["of"] == 20
    for name in BLOCKS:  # what gates are checked against before work
        assert set(values["evaluators"][name]["figures"]) <= set(REPORTED[name])
        assert {figure for figure in REPORTED[name] if not figure.startswith("questions: ")} <= set(
            values["evaluators"][name]["figures"]
        )
    assert "Drawings of Blocks" in (tmp_path / "evaluation.html").read_text()


def test_exports_are_in_the_checkpoint(tmp_path: Path) -> None:
    recipe = assembled(tmp_path, export={"encoder": ["onnx-f32"]})
    seen = export(recipe, tmp_path, ignore)
    card = read_card(recipe.folder / "checkpoint" / "out" / "encoder")
    assert seen == {"encoder: onnx-f32": card.exports["onnx-f32"]["cosine_min_seen"]}


def test_publishing_replaces_a_checkpoint_whole(tmp_path: Path) -> None:
    recipe = assembled(tmp_path)
    write_tiny_checkpoint(recipe.out)
    (recipe.out / "left").touch()
    kept = tmp_path / "published.previous"  # someone's own
    kept.mkdir()
    publish(recipe, tmp_path, ignore)
    verify_digest(recipe.out / "llm", read_card(recipe.out / "llm"))
    assert not (recipe.out / "left").exists()
    assert {path.name for path in recipe.out.parent.iterdir()} == {"published", "published.previous", "runs"}


def test_publishing_does_not_overwrite_what_is_no_checkpoint(tmp_path: Path) -> None:
    recipe = assembled(tmp_path)
    recipe.out.mkdir()
    (recipe.out / "thesis.txt").write_text("years of work")
    with pytest.raises(FailedPrecondition, match="is no checkpoint"):
        publish(recipe, tmp_path, ignore)
    assert (recipe.out / "thesis.txt").read_text() == "years of work"
