"""The first stage of a recipe: its tokenizer."""

from collections.abc import Callable
from pathlib import Path

from services.trainer.config import Recipe
from services.trainer.data.tokens import train_tokenizer
from triptych.prompts import PromptTemplate


def make_tokenizer(recipe: Recipe, folder: Path, report: Callable[[dict[str, float]], None]) -> dict[str, object]:
    """Trains it into `folder/out`."""
    template = PromptTemplate(**recipe.template.model_dump())
    config = recipe.tokenizer
    size = train_tokenizer(template, config.vocab_size, config.num_conversations, recipe.seed, folder / "out")
    return {"vocab_size": size}
