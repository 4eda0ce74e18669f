"""One training stage, in this process or one rank of it; progress goes to stdout as JSON lines, from rank 0 alone."""

import json
import os
import shutil
import time
from pathlib import Path

import torch

from services.trainer.config import Recipe
from services.trainer.data.tokens import train_tokenizer
from services.trainer.done import write_done
from services.trainer.ranks import joined
from services.trainer.stages import NEEDS, OBJECTIVES, digest, inputs, is_done
from services.trainer.train import train_stage
from triptych.errors import FailedPrecondition, InvalidArgument
from triptych.prompts import PromptTemplate


def run_stage(recipe: Recipe, stage: str, threads: int) -> None:
    """Does nothing when the stage is already done. Raises FailedPrecondition when what it needs is not."""
    if is_done(recipe, stage):
        return
    missing = [need for need in NEEDS[stage] if not is_done(recipe, need)]
    if missing:
        raise FailedPrecondition(f"stage {stage} needs {', '.join(missing)} first")
    torch.set_num_threads(threads or os.cpu_count() or 1)
    folder = recipe.folder / stage
    if stage == "tokenizer":
        _tokenizer(recipe, folder)
    elif stage == "publish":
        from services.trainer.publish import publish

        publish(recipe, folder, digest(recipe, stage), _report)
    else:
        _train(recipe, stage, folder)


def _train(recipe: Recipe, stage: str, folder: Path) -> None:
    distribution, kind = recipe.distribution(stage), OBJECTIVES.load(stage)
    if distribution and not kind.is_distributed:
        raise InvalidArgument(f"{stage}.distribution: this stage trains in one process only")
    with joined(distribution) as ranks:
        on_gpu = ranks.device.type == "cuda"
        if on_gpu:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
        torch.use_deterministic_algorithms(True, warn_only=on_gpu)  # a few CUDA kernels have no such form
        made = (
            kind(recipe, inputs(recipe, stage), ranks) if kind.is_distributed else kind(recipe, inputs(recipe, stage))
        )
        train_stage(made, folder, digest(recipe, stage), _report)


def _report(figures: dict[str, float]) -> None:
    print(json.dumps(figures), flush=True)


def _tokenizer(recipe: Recipe, folder: Path) -> None:
    start = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    template = PromptTemplate(**recipe.template.model_dump())
    config = recipe.tokenizer
    size = train_tokenizer(template, config.vocab_size, config.num_conversations, recipe.seed, folder / "out")
    write_done(folder, digest(recipe, "tokenizer"), {"vocab_size": size}, time.monotonic() - start)
