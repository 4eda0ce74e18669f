"""One training stage in one process; progress goes to stdout as JSON lines."""

import json
import os
import shutil
import time

import torch

from services.trainer.config import Recipe
from services.trainer.done import write_done
from services.trainer.stages import NEEDS, OBJECTIVES, STEPS, digest, inputs, is_done
from services.trainer.train import train_stage
from triptych.errors import FailedPrecondition


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
    if stage in STEPS:
        _run_step(recipe, stage)
    else:
        objective = OBJECTIVES.load(stage)(recipe, inputs(recipe, stage))
        train_stage(objective, folder, digest(recipe, stage), _report)


def _run_step(recipe: Recipe, stage: str) -> None:
    """From the start, whatever an interrupted run left."""
    start = time.monotonic()
    folder = recipe.folder / stage
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    figures = STEPS.load(stage)(recipe, folder, _report)
    write_done(folder, digest(recipe, stage), figures, time.monotonic() - start)


def _report(figures: dict[str, float]) -> None:
    print(json.dumps(figures), flush=True)
