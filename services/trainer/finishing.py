"""The last stages of a recipe: what was trained becomes a checkpoint, is judged, exported, and put where it belongs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from services.trainer.config import Recipe
from services.trainer.destination import is_free
from services.trainer.evaluate import evaluate_checkpoint
from services.trainer.gate import check_gate
from services.trainer.recipe import AnyRecipe
from services.trainer.stages import digest
from triptych.errors import FailedPrecondition
from triptych.models.cards import Defaults, Spaces
from triptych.models.checkpoint import put_in_place, write_checkpoint
from triptych.models.decoder_stage import DecoderStage
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage
from triptych.prompts import PromptTemplate

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
Report = Callable[[dict[str, float]], None]
Figures = dict[str, object]


def assemble(recipe: Recipe, folder: Path, report: Report) -> Figures:
    """The trained parts as a checkpoint in `folder/out`: cards, probes, digests."""
    return write_trained(recipe, recipe.folder / "handover" / "out", folder / "out", digest(recipe, "checkpoint"))


def write_trained(recipe: Recipe, trained: Path, out: Path, identity: str) -> Figures:
    """What a stage of the whole model left in `trained` as a checkpoint; returns the digests of its components."""
    config = recipe.checkpoint
    cards = write_checkpoint(
        out,
        EncoderStage.load(trained / "encoder"),
        LlmStage.load(trained / "llm", PromptTemplate(**recipe.template.model_dump())),
        DecoderStage.load(trained / "decoder"),
        name=recipe.name,
        version=config.version,
        spaces=Spaces.of_run(recipe.name, identity),
        made_by={"recipe": recipe.name, "recipe_digest": identity, "seed": recipe.seed},
        dtype=DTYPES[config.weights],
        defaults=Defaults(
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            max_tokens=config.max_tokens,
        ),
    )
    return {kind: card.digest for kind, card in cards.items()}


def evaluate(recipe: Recipe, folder: Path, report: Report) -> Figures:
    """Held-out figures of the checkpoint, and the report, into `folder`. Raises FailedPrecondition below the gate: then
    nothing is published."""
    evaluation = evaluate_checkpoint(
        _checkpoint(recipe),
        num_scenes=recipe.evaluate.num_scenes,
        num_processes=torch.get_num_threads(),  # a process a core: many small steps gain nothing from threads
        num_threads=1,
        report=report,
    )
    evaluation.write(folder)
    check_gate("evaluate", recipe.evaluate.gate, {name: figure.value for name, figure in evaluation.figures.items()})
    return {name: figure.to_dict() for name, figure in evaluation.figures.items()}


def export(recipe: AnyRecipe, folder: Path, report: Report) -> Figures:
    """The exports that the recipe names, into the checkpoint. Raises ExportError for one that is not equal to torch."""
    if not recipe.export.wanted:
        return {}
    from triptych.models.export import ExportConfig, export_component  # onnx is only needed here

    seen: Figures = {}
    for number, (kind, name) in enumerate(recipe.export.wanted, start=1):
        form, precision = name.rsplit("-", 1)
        done = export_component(_checkpoint(recipe) / kind, ExportConfig(format=form, precision=precision))
        seen[f"{kind}: {name}"] = done.cosine_min_seen
        report({"step": number, "steps": len(recipe.export.wanted)})
    return seen


def publish(recipe: AnyRecipe, folder: Path, report: Report) -> Figures:
    """Puts the checkpoint where the recipe says, in one move. Raises FailedPrecondition rather than to overwrite what
    is no checkpoint."""
    if not is_free(recipe.out):
        raise FailedPrecondition(f"out {recipe.out} exists and is no checkpoint: it is not overwritten")
    partial = recipe.out.with_name(f".{recipe.out.name}.partial")  # hidden: what has a plain name may be someone's
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(_checkpoint(recipe), partial)
    put_in_place(partial, recipe.out)
    return {"out": str(recipe.out)}


def _checkpoint(recipe: AnyRecipe) -> Path:
    return recipe.folder / "checkpoint" / "out"
