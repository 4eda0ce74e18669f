"""One function reads recipes of both kinds."""

from pathlib import Path

import pytest

from services.trainer.config import Recipe
from services.trainer.recipe import read_recipe
from services.trainer.stages import graph
from tests.services.trainer.tuned import recipe
from triptych.errors import InvalidArgument

ROOT = Path(__file__).parents[3]


def test_without_a_kind_it_builds_from_nothing() -> None:
    read = read_recipe(ROOT / "recipes" / "genllava-tiny.toml")
    assert isinstance(read, Recipe)
    assert "vae" in graph(read).needs


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('kind = "tuned"', "kind is 'tuned', must be 'blocks' or 'tuning'"),
        ('kind = "tuning"', "base"),
        ("kind = ", r"toy\.toml"),
        ("", "tokenizer"),
    ],
)
def test_what_is_wrong_names_the_file(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=rf"(?s)toy\.toml.*{complaint}|{complaint}"):
        read_recipe(path)
    with pytest.raises(InvalidArgument, match=r"none\.toml does not exist"):
        read_recipe(tmp_path / "none.toml")


def test_stages_of_a_tuning_recipe_stand_in_order(tmp_path: Path) -> None:
    own = graph(recipe(tmp_path, {"name": "first"}, {"name": "second"}))
    assert own.needs == {
        "first": (),
        "second": ("first",),
        "checkpoint": ("first", "second"),
        "evaluate": ("checkpoint",),
        "export": ("evaluate",),
        "publish": ("export",),
    }
    assert own.tasks["prepare"] == ()
    assert own.tasks["train"] == ("first", "second", "checkpoint")
    assert all(own.runs_alone(stage) for stage in own.needs)
    mixed = graph(recipe(tmp_path, {"name": "first"}, {"name": "second"}, data=None, mix="mix.toml"))
    assert mixed.needs["first"] == ("mix",)
    assert mixed.needs["second"] == ("mix", "first")
    assert sorted(stage for stages in mixed.tasks.values() for stage in stages) == sorted(mixed.needs)
