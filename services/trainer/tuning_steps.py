"""The stages of a tuning recipe that take no gradients: its mix, its checkpoint, its verdict."""

import os
from pathlib import Path

import torch

from services.trainer.assembly import Assembly
from services.trainer.data.files import write_json
from services.trainer.data.mix import Mix
from services.trainer.evaluate import evaluate_checkpoint
from services.trainer.finishing import DTYPES, Figures, Report
from services.trainer.gate import check_gate
from services.trainer.stages import digest
from services.trainer.tuned_base import base_digests
from services.trainer.tuning import TuningRecipe, TuningStage
from triptych.card import read_card
from triptych.models.cards import Defaults, Spaces
from triptych.models.checkpoint import write_checkpoint
from triptych.models.json_file import read_value


def prepare_mix(recipe: TuningRecipe, folder: Path, report: Report) -> Figures:
    """The mix in `folder/out`. An interrupted run is gone on with."""
    from services.trainer.prepare import prepare

    assert recipe.mix is not None
    under_way = folder.with_name("mix.partial")
    prepare(Mix.read(recipe.mix), under_way, os.cpu_count() or 1, Path.cwd())
    under_way.rename(folder / "out")
    return {"num_samples": read_value(folder / "out" / "index.json", "num_samples")}


def assemble(recipe: TuningRecipe, folder: Path, report: Report) -> Figures:
    """Base and trained parts as a checkpoint in `folder/out`: cards, probes, digests."""
    assembly = Assembly(recipe.base, tuple(recipe.folder / name / "out" for name in recipe.names))
    config, identity = recipe.checkpoint, digest(recipe, "checkpoint")
    base = {"base": base_digests(recipe.base)}
    cards = write_checkpoint(
        folder / "out",
        assembly.encoder(),
        assembly.llm(),
        assembly.decoder(),
        name=recipe.name,
        version=config.version,
        spaces=spaces(recipe, identity),
        made_by={"recipe": recipe.name, "recipe_digest": identity, "seed": recipe.seed, **base},
        dtype=DTYPES[config.weights],
        defaults=_defaults(recipe),
    )
    return {kind: card.digest for kind, card in cards.items()}


def evaluate(recipe: TuningRecipe, folder: Path, report: Report) -> Figures:
    """The last stage's figures on the samples held out, and those of the recipe's data sets with their report, into
    `folder`. Raises FailedPrecondition below the gate: then nothing is published."""
    figures: dict[str, float] = read_value(recipe.folder / recipe.names[-1] / "done.json", "evaluation")
    write_json(folder / "held_out.json", figures)
    if wanted := recipe.evaluate.data:
        evaluation = evaluate_checkpoint(
            recipe.folder / "checkpoint" / "out",
            tuple(wanted),
            num_records=recipe.evaluate.num_records,
            data=tuple(wanted.items()),
            num_processes=torch.get_num_threads(),
            num_threads=1,
            report=report,
        )
        evaluation.write(folder)
        figures |= {name: figure.value for name, figure in evaluation.figures.items()}
    check_gate("evaluate", recipe.evaluate.gate, figures)
    return dict(figures)


def spaces(recipe: TuningRecipe, identity: str) -> Spaces:
    """The base's spaces where one side was trained against the other, frozen one; new ones where both were trained, or
    one was trained last on data that the other had no part in."""
    own, old = Spaces.of_run(recipe.name, identity), Spaces(**read_value(recipe.base / "system.json", "spaces"))
    looking = _keeps(recipe.stages, {"projector"}, {"llm"}, "looks")
    drawing = _keeps(recipe.stages, {"llm", "tokens"}, {"head"}, "learns_to_draw")
    return Spaces(llm_input=old.llm_input if looking else own.llm_input, img=old.img if drawing else own.img)


def _keeps(stages: tuple[TuningStage, ...], one: set[str], other: set[str], together: str) -> bool:
    """Whether at most one side was trained, in the last place in a stage that put both `together`."""
    training = [[stage for stage in stages if side & set(stage.train)] for side in (one, other)]
    if all(training):
        return False
    trained = training[0] or training[1]
    return not trained or bool(getattr(trained[-1], together))


def _defaults(recipe: TuningRecipe) -> Defaults:
    """What the recipe says, or else the base's cards."""
    config, base = recipe.checkpoint, recipe.base
    facts = dict(read_card(base / "encoder").facts) | dict(read_card(base / "llm").facts)
    if (base / "decoder").is_dir():
        facts |= read_card(base / "decoder").facts
    plain = Defaults()
    return Defaults(
        num_inference_steps=config.num_inference_steps
        or facts.get("default_num_inference_steps", plain.num_inference_steps),
        guidance_scale=facts.get("default_guidance_scale", plain.guidance_scale)
        if config.guidance_scale is None
        else config.guidance_scale,
        max_num_inference_steps=facts.get("max_num_inference_steps", plain.max_num_inference_steps),
        max_tokens=config.max_tokens or facts.get("default_max_tokens", plain.max_tokens),
        max_pixels=facts.get("max_pixels", plain.max_pixels),
    )
