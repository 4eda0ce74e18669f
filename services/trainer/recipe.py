"""Recipes of either kind: `kind = "tuning"` trains a checkpoint further; without it, one is built from nothing."""

from pathlib import Path

from services.trainer.config import Recipe
from services.trainer.toml_file import checked, read_toml
from services.trainer.tuning import TuningRecipe
from triptych.errors import InvalidArgument

AnyRecipe = Recipe | TuningRecipe


def read_recipe(path: Path) -> AnyRecipe:
    """Raises InvalidArgument naming the file, the key and what is wrong with it."""
    values = read_toml(path, "recipe")
    kind = values.get("kind", "blocks")
    if kind not in ("blocks", "tuning"):
        raise InvalidArgument(f"recipe {path}: kind is {kind!r}, must be 'blocks' or 'tuning'")
    if kind == "tuning":
        return checked(TuningRecipe, values, path, "recipe")
    return checked(Recipe, values, path, "recipe")
