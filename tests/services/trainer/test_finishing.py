"""The last stages, on a checkpoint of random weights: exports, and what publishing does not overwrite."""

from pathlib import Path
from typing import Any

import pytest

from services.trainer.config import Recipe
from services.trainer.finishing import export, publish
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


def test_exports_are_in_the_checkpoint(tmp_path: Path) -> None:
    recipe = assembled(tmp_path, export={"encoder": ["onnx-f32"]})
    seen = export(recipe, tmp_path, ignore)
    card = read_card(recipe.folder / "checkpoint" / "out" / "encoder")
    assert seen == {"encoder: onnx-f32": card.exports["onnx-f32"]["cosine_min_seen"]}


def test_publishing_replaces_a_checkpoint_whole(tmp_path: Path) -> None:
    recipe = assembled(tmp_path)
    write_tiny_checkpoint(recipe.out)
    (recipe.out / "left").touch()
    publish(recipe, tmp_path, ignore)
    verify_digest(recipe.out / "llm", read_card(recipe.out / "llm"))
    assert not (recipe.out / "left").exists()
    assert {path.name for path in recipe.out.parent.iterdir()} == {"published", "runs"}


def test_publishing_does_not_overwrite_what_is_no_checkpoint(tmp_path: Path) -> None:
    recipe = assembled(tmp_path)
    recipe.out.mkdir()
    (recipe.out / "thesis.txt").write_text("years of work")
    with pytest.raises(FailedPrecondition, match="is no checkpoint"):
        publish(recipe, tmp_path, ignore)
    assert (recipe.out / "thesis.txt").read_text() == "years of work"
