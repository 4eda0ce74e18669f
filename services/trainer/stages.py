"""The stages of a recipe: which there are, what each needs, where each keeps its work."""

from pathlib import Path

from services.trainer.config import Recipe
from services.trainer.done import done_digest
from triptych.registry import Registry

OBJECTIVES = Registry(
    "training stage",
    {
        "vae": "services.trainer.objectives.vae:VaeObjective",
        "vae_decoder": "services.trainer.objectives.vae_decoder:VaeDecoderObjective",
        "encoder": "services.trainer.objectives.contrastive:ContrastiveObjective",
        "llm": "services.trainer.objectives.language:LanguageObjective",
        "understanding": "services.trainer.objectives.understanding:UnderstandingObjective",
        "unet": "services.trainer.objectives.diffusion:DiffusionObjective",
        "multimodal": "services.trainer.objectives.multimodal:MultimodalObjective",
    },
)
# Stages that take no gradients: functions (recipe, folder, report) that return what done.json says of them.
STEPS = Registry(
    "step",
    {
        "tokenizer": "services.trainer.tokenizer:make_tokenizer",
        "checkpoint": "services.trainer.finishing:assemble",
        "evaluate": "services.trainer.finishing:evaluate",
        "export": "services.trainer.finishing:export",
        "publish": "services.trainer.finishing:publish",
    },
)
# A stage starts when all it needs is done; stages that do not need each other run side by side.
NEEDS: dict[str, tuple[str, ...]] = {
    "tokenizer": (),
    "vae": (),
    "vae_decoder": ("vae",),
    "encoder": ("tokenizer",),
    "llm": ("tokenizer",),
    "understanding": ("tokenizer", "encoder", "llm"),
    "unet": ("tokenizer", "vae"),
    "multimodal": ("tokenizer", "vae_decoder", "unet", "understanding"),
    "checkpoint": ("multimodal",),
    "evaluate": ("checkpoint",),
    "export": ("evaluate",),
    "publish": ("export",),
}
# What a job does one after the other, and the stages of each.
TASKS: dict[str, tuple[str, ...]] = {
    "prepare": ("tokenizer",),
    "train": (*OBJECTIVES, "checkpoint"),
    "evaluate": ("evaluate",),
    "export": ("export",),
    "publish": ("publish",),
}


def digest(recipe: Recipe, stage: str) -> str:
    """Identity of a stage's work: its own settings and those of everything it builds on."""
    return recipe.digest(*sorted({stage} | _all_needs(stage)))


def runs_alone(stage: str) -> bool:
    """Whether nothing can run beside this stage: every other one is needed by it or needs it."""
    return all(other in _all_needs(stage) or stage in _all_needs(other) for other in NEEDS if other != stage)


def _all_needs(stage: str) -> set[str]:
    """What it needs, and what that needs, and so on."""
    return set(NEEDS[stage]).union(*(_all_needs(need) for need in NEEDS[stage]))


def is_done(recipe: Recipe, stage: str) -> bool:
    """Whether this recipe's settings, not others, have finished the stage."""
    return done_digest(recipe.folder / stage) == digest(recipe, stage)


def inputs(recipe: Recipe, stage: str) -> dict[str, Path]:
    """The output folders of what the stage needs."""
    return {need: recipe.folder / need / "out" for need in NEEDS[stage]}
