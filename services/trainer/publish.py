"""The last stage: trained parts become a checkpoint that services load, and its held-out figures are taken."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from services.trainer.config import Recipe
from services.trainer.done import write_done
from services.trainer.evaluate import evaluate_checkpoint
from triptych.models.cards import Defaults, Spaces
from triptych.models.checkpoint import write_checkpoint
from triptych.models.decoder_stage import DecoderStage
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage
from triptych.prompts import PromptTemplate

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def publish(recipe: Recipe, folder: Path, digest: str, report: Callable[[dict[str, float]], None]) -> None:
    """Writes `recipe.out` whole (cards, probes, digests), and `folder/done.json` with its held-out figures."""
    start = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    trained = recipe.folder / "multimodal" / "out"
    config = recipe.publish
    write_checkpoint(
        recipe.out,
        EncoderStage.load(trained / "encoder"),
        LlmStage.load(trained / "llm", PromptTemplate(**recipe.template.model_dump())),
        DecoderStage.load(trained / "decoder"),
        name=recipe.name,
        version=config.version,
        spaces=Spaces.of_run(recipe.name, digest),
        made_by={"recipe": recipe.name, "recipe_digest": digest, "seed": recipe.seed},
        dtype=DTYPES[config.weights],
        defaults=Defaults(
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            max_tokens=config.max_tokens,
        ),
    )
    evaluation = evaluate_checkpoint(recipe.out, num_scenes=config.num_eval_scenes, report=report)
    evaluation.write(folder)
    write_done(folder, digest, evaluation.counts(), time.monotonic() - start)
