"""The stages of a recipe: which there are, what each needs, where each keeps its work."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.trainer.config import Recipe
from services.trainer.done import done_digest, done_evaluation
from services.trainer.recipe import AnyRecipe
from services.trainer.tuning import TuningRecipe
from triptych.errors import InvalidArgument
from triptych.registry import Registry

if TYPE_CHECKING:
    from services.trainer.objectives.base import Objective
    from services.trainer.ranks import Ranks

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
        "handover": "services.trainer.objectives.handover:HandoverObjective",
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
TUNING_STEPS = Registry(
    "step",
    {
        "mix": "services.trainer.tuning_steps:prepare_mix",
        "checkpoint": "services.trainer.tuning_steps:assemble",
        "evaluate": "services.trainer.tuning_steps:evaluate",
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
    "handover": ("multimodal",),
    "checkpoint": ("handover",),
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


@dataclass(frozen=True)
class Graph:
    """`needs`: the stages in order, and what each waits for; `tasks`: what a job does one after the other, and the
    stages of each; `steps`: those stages that take no gradients."""

    needs: dict[str, tuple[str, ...]]
    tasks: dict[str, tuple[str, ...]]
    steps: Registry

    def all_needs(self, stage: str) -> set[str]:
        """What it needs, and what that needs, and so on."""
        return set(self.needs[stage]).union(*(self.all_needs(need) for need in self.needs[stage]))

    def runs_alone(self, stage: str) -> bool:
        """Whether nothing can run beside this stage: every other one is needed by it or needs it."""
        own = self.all_needs(stage)
        return all(other in own or stage in self.all_needs(other) for other in self.needs if other != stage)


BLOCKS = Graph(NEEDS, TASKS, STEPS)


def graph(recipe: AnyRecipe) -> Graph:
    """Of a tuning recipe: its stages, each on what all before it have left, between the mix and the checkpoint."""
    return BLOCKS if isinstance(recipe, Recipe) else _tuning_graph(recipe)


def _tuning_graph(recipe: TuningRecipe) -> Graph:
    first = ("mix",) if recipe.mix else ()
    needs: dict[str, tuple[str, ...]] = dict.fromkeys(first, ())
    for number, name in enumerate(recipe.names):
        needs[name] = (*first, *recipe.names[:number])
    last = {"checkpoint": recipe.names, "evaluate": ("checkpoint",), "export": ("evaluate",), "publish": ("export",)}
    tasks = {"prepare": first, "train": (*recipe.names, "checkpoint")}
    return Graph({**needs, **last}, {**tasks, **{name: (name,) for name in list(last)[1:]}}, TUNING_STEPS)


def make_objective(recipe: AnyRecipe, stage: str, ranks: "Ranks | None" = None) -> "Objective":
    """What the stage trains. `ranks`: for those objectives that know what to do with several."""
    given: dict[str, Any] = {"ranks": ranks} if ranks else {}
    if isinstance(recipe, TuningRecipe):
        from services.trainer.objectives.tuning import TuningObjective

        return TuningObjective(recipe, stage, inputs(recipe, stage), **given)
    kind: type[Objective] = OBJECTIVES.load(stage)
    if recipe.distribution(stage) and not kind.is_distributed:
        raise InvalidArgument(f"{stage}.distribution: this stage trains in one process only")
    return kind(recipe, inputs(recipe, stage), **(given if kind.is_distributed else {}))


def digest(recipe: AnyRecipe, stage: str) -> str:
    """Identity of a stage's work: its own settings and those of everything it builds on."""
    return recipe.digest(*sorted({stage} | graph(recipe).all_needs(stage)))


def is_done(recipe: AnyRecipe, stage: str) -> bool:
    """Whether this recipe's settings, not others, have finished the stage; published elsewhere is not published."""
    folder = recipe.folder / stage
    if done_digest(folder) != digest(recipe, stage):
        return False
    return stage != "publish" or str(done_evaluation(folder)["out"]) == str(recipe.out)


def inputs(recipe: AnyRecipe, stage: str) -> dict[str, Path]:
    """The output folders of what the stage needs."""
    return {need: recipe.folder / need / "out" for need in graph(recipe).needs[stage]}
