"""What each stage needs, and when its work counts as done."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.trainer.config import Recipe, Stage
from services.trainer.done import write_done
from services.trainer.gate import FIGURES
from services.trainer.objectives.base import Objective
from services.trainer.stages import BLOCKS, NEEDS, OBJECTIVES, STEPS, TASKS, digest, inputs, is_done
from services.trainer.worker import run_stage
from tests.services.trainer.tiny_recipe import tiny_recipe
from triptych.errors import FailedPrecondition

LAST = {"handover", "checkpoint", "evaluate", "export", "publish"}


def finish(recipe: Recipe, *stages: str) -> None:
    for stage in stages:
        folder = recipe.folder / stage
        folder.mkdir(parents=True)
        (folder / "done.json").write_text(json.dumps({"digest": digest(recipe, stage)}))


def changed(stage: str) -> Recipe:
    settings: dict[str, Any] = {
        "tokenizer": {"vocab_size": 401},
        "checkpoint": {"version": "0.0.2"},
        "evaluate": {"num_scenes": 11},
        "export": {"encoder": ["onnx-f32"]},
    }
    return tiny_recipe(**{stage: settings.get(stage, {"steps": 9})})


def test_every_objective_says_what_the_table_says() -> None:
    assert set(NEEDS) == {*OBJECTIVES, *STEPS}
    for name in OBJECTIVES:
        loaded = OBJECTIVES.load(name)
        assert issubclass(loaded, Objective)
        assert (loaded.name, set(loaded.needs)) == (name, set(NEEDS[name]))
        assert isinstance(getattr(tiny_recipe(), name), Stage)
        assert not loaded.is_distributed  # `Recipe.check` refuses a distribution of any of them
    assert set(FIGURES) == set(OBJECTIVES)


def test_needs_come_before_and_form_no_circle() -> None:
    done: set[str] = set()
    while ready := [stage for stage in NEEDS if stage not in done and set(NEEDS[stage]) <= done]:
        done.update(ready)
    assert done == set(NEEDS)


def test_tasks_hold_every_stage_once_and_need_only_earlier_ones() -> None:
    done: list[str] = []
    for stages in TASKS.values():
        assert all(set(NEEDS[stage]) <= {*done, *stages} for stage in stages)
        done += stages
    assert sorted(done) == sorted(NEEDS)


def test_what_runs_alone() -> None:
    assert {stage for stage in NEEDS if BLOCKS.runs_alone(stage)} == {"multimodal", *LAST}


@pytest.mark.parametrize(
    ("stage", "after"),
    [
        ("tokenizer", {"tokenizer", "encoder", "llm", "understanding", "unet", "multimodal", *LAST}),
        ("vae", {"vae", "vae_decoder", "unet", "multimodal", *LAST}),
        ("vae_decoder", {"vae_decoder", "multimodal", *LAST}),
        ("encoder", {"encoder", "understanding", "multimodal", *LAST}),
        ("llm", {"llm", "understanding", "multimodal", *LAST}),
        ("understanding", {"understanding", "multimodal", *LAST}),
        ("unet", {"unet", "multimodal", *LAST}),
        ("multimodal", {"multimodal", *LAST}),
        ("handover", LAST),
        ("checkpoint", LAST - {"handover"}),
        ("evaluate", LAST - {"handover", "checkpoint"}),
        ("export", {"export", "publish"}),
    ],
)
def test_a_changed_stage_changes_what_builds_on_it_and_no_more(stage: str, after: set[str]) -> None:
    before, new = tiny_recipe(), changed(stage)
    assert {s for s in NEEDS if digest(before, s) != digest(new, s)} == after


def test_done_only_with_the_same_settings(tmp_path: Path) -> None:
    recipe = tiny_recipe(runs=str(tmp_path))
    assert not is_done(recipe, "vae")
    finish(recipe, "vae")
    assert is_done(recipe, "vae")
    assert not is_done(tiny_recipe(runs=str(tmp_path), vae={"steps": 5}), "vae")
    assert not is_done(tiny_recipe(runs=str(tmp_path), seed=1), "vae")
    assert not is_done(recipe, "unet")


def test_inputs() -> None:
    recipe = tiny_recipe(runs="r")
    assert inputs(recipe, "unet") == {
        "tokenizer": Path("r/tiny/tokenizer/out"),
        "vae": Path("r/tiny/vae/out"),
    }
    assert inputs(recipe, "tokenizer") == {}


def test_a_stage_whose_needs_are_missing_is_refused(tmp_path: Path) -> None:
    recipe = tiny_recipe(runs=str(tmp_path))
    finish(recipe, "tokenizer")
    with pytest.raises(FailedPrecondition, match="stage unet needs vae first"):
        run_stage(recipe, "unet", 1)
    assert not (recipe.folder / "unet").exists()


def test_a_recipe_that_publishes_elsewhere_is_not_done(tmp_path: Path) -> None:
    recipe = tiny_recipe(runs=str(tmp_path), out=str(tmp_path / "first"))
    (recipe.folder / "publish").mkdir(parents=True)
    write_done(recipe.folder / "publish", digest(recipe, "publish"), {"out": str(recipe.out)}, 0.0)
    assert is_done(recipe, "publish")
    assert not is_done(tiny_recipe(runs=str(tmp_path), out=str(tmp_path / "second")), "publish")
