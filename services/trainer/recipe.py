"""Recipes of either kind: `kind = "tuning"` trains a checkpoint further; without it, one is built from nothing."""

from pathlib import Path

from services.trainer.config import Recipe
from services.trainer.toml_file import read_toml
from services.trainer.tuning import TuningRecipe
from triptych.errors import InvalidArgument

AnyRecipe = Recipe | TuningRecipe


def read_recipe(path: Path) -> AnyRecipe:
    """Raises InvalidArgument naming the file, the key and what is wrong with it."""
    kind = read_toml(path, "recipe").get("kind", "blocks")
    if kind == "tuning":
        return TuningRecipe.read(path)
    if kind != "blocks":
        raise InvalidArgument(f"recipe {path}: kind is {kind!r}, must be 'blocks' or 'tuning'")
    return Recipe.read(path)
