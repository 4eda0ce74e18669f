"""One training stage in one process; progress goes to stdout as JSON lines."""

import json
import os
import shutil
import time
from pathlib import Path

import torch

from services.trainer.config import Recipe
from services.trainer.data.tokens import train_tokenizer
from services.trainer.done import write_done
from services.trainer.stages import NEEDS, OBJECTIVES, digest, inputs, is_done
from services.trainer.train import train_stage
from triptych.errors import FailedPrecondition
from triptych.prompts import PromptTemplate


def run_stage(recipe: Recipe, stage: str, threads: int) -> None:
    """Does nothing when the stage is already done. Raises FailedPrecondition when what it needs is not."""
    if is_done(recipe, stage):
        return
    missing = [need for need in NEEDS[stage] if not is_done(recipe, need)]
    if missing:
        raise FailedPrecondition(f"stage {stage} needs {', '.join(missing)} first")
    torch.set_num_threads(threads or os.cpu_count() or 1)
    torch.use_deterministic_algorithms(True)
    folder = recipe.folder / stage
    if stage == "tokenizer":
        _tokenizer(recipe, folder)
    elif stage == "publish":
        from services.trainer.publish import publish

        publish(recipe, folder, digest(recipe, stage), _report)
    else:
        objective = OBJECTIVES.load(stage)(recipe, inputs(recipe, stage))
        train_stage(objective, folder, digest(recipe, stage), _report)


def _report(figures: dict[str, float]) -> None:
    print(json.dumps(figures), flush=True)


def _tokenizer(recipe: Recipe, folder: Path) -> None:
    start = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    template = PromptTemplate(**recipe.template.model_dump())
    config = recipe.tokenizer
    size = train_tokenizer(template, config.vocab_size, config.num_conversations, recipe.seed, folder / "out")
    write_done(folder, digest(recipe, "tokenizer"), {"vocab_size": size}, time.monotonic() - start)
