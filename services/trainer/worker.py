"""One training stage, in this process or one rank of it; progress goes to stdout as JSON lines, from rank 0 alone."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError

from services.trainer.done import done_digest, write_done
from services.trainer.ranks import joined
from services.trainer.recipe import AnyRecipe
from services.trainer.stages import digest, graph, is_done, make_objective
from services.trainer.train import train_stage
from triptych.errors import FailedPrecondition, InvalidArgument, ResourceExhausted

KEPT: Final = ("mix",)  # takes hours to make: what is finished of it is not deleted for other settings


def run_stage(recipe: AnyRecipe, stage: str, threads: int) -> None:
    """Does nothing when the stage is already done. Raises FailedPrecondition when what it needs is not, and
    ResourceExhausted when the disk is full."""
    if is_done(recipe, stage):
        return
    missing = [need for need in graph(recipe).needs[stage] if not is_done(recipe, need)]
    if missing:
        raise FailedPrecondition(f"stage {stage} needs {', '.join(missing)} first")
    torch.set_num_threads(threads or os.cpu_count() or 1)
    folder = recipe.folder / stage
    try:
        if stage in graph(recipe).steps:
            torch.use_deterministic_algorithms(True)
            _run_step(recipe, stage)
        else:
            _train(recipe, stage, folder)
    except SafetensorError as error:
        if not str(error).startswith("Error while serializing"):  # it has one type for all, where Python has OSError
            raise
        raise ResourceExhausted(f"{folder} could not be written: {error}") from error


def _train(recipe: AnyRecipe, stage: str, folder: Path) -> None:
    distribution = recipe.distribution(stage)
    with joined(distribution) as ranks:
        on_gpu = ranks.device.type == "cuda"
        if on_gpu:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
        torch.use_deterministic_algorithms(True, warn_only=on_gpu)  # a few CUDA kernels have no such form
        train_stage(make_objective(recipe, stage, ranks), folder, digest(recipe, stage), _report)


def _run_step(recipe: AnyRecipe, stage: str) -> None:
    """From the start, whatever an interrupted run left. Raises InvalidArgument where that would cost a finished mix."""
    start = time.monotonic()
    folder = recipe.folder / stage
    identity = digest(recipe, stage)  # before the work: what it depends on may change meanwhile
    if stage in KEPT and (made_by := done_digest(folder)):
        raise InvalidArgument(
            f"{folder} was made by settings {made_by}, not {identity}: "
            "delete or move it to make another, or give the recipe another name"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    figures = graph(recipe).steps.load(stage)(recipe, folder, _report)
    write_done(folder, identity, figures, time.monotonic() - start)


def _report(figures: dict[str, float]) -> None:
    print(json.dumps(figures), flush=True)
