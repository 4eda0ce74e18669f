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
# A stage starts when all it needs is done; stages that do not need each other run side by side.
NEEDS: dict[str, tuple[str, ...]] = {
    "tokenizer": (),
    "vae": (),
    "vae_decoder": ("vae",),
    "encoder": ("tokenizer",),
    "llm": ("tokenizer",),
    "understanding": ("tokenizer", "encoder", "llm"),
    "unet": ("tokenizer", "vae_decoder"),
    "multimodal": ("tokenizer", "vae_decoder", "unet", "understanding"),
    "publish": ("multimodal",),
}


def digest(recipe: Recipe, stage: str) -> str:
    """Identity of a stage's work: its own settings and those of everything it builds on."""
    wanted, found = [stage], {stage}
    while wanted:
        for need in NEEDS[wanted.pop()]:
            if need not in found:
                found.add(need)
                wanted.append(need)
    return recipe.digest(*sorted(found))


def is_done(recipe: Recipe, stage: str) -> bool:
    """Whether this recipe's settings, not others, have finished the stage."""
    return done_digest(recipe.folder / stage) == digest(recipe, stage)


def inputs(recipe: Recipe, stage: str) -> dict[str, Path]:
    """The output folders of what the stage needs."""
    return {need: recipe.folder / need / "out" for need in NEEDS[stage]}
