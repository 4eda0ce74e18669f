"""The other kind of recipe: training an assembled checkpoint further, on a prepared mix, in stages one after another.

`kind = "tuning"` at the top of the file. Defaults are GenLLaVA's (Table A1), or LLaVA's where the paper is silent.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from services.trainer.config import NAME, NOT_WEIGHTS, ExportStage, Stage
from services.trainer.data.catalogue import draw_held_out
from services.trainer.data.mix import Mix
from services.trainer.destination import check_out
from services.trainer.distribution import Distribution
from services.trainer.done import done_digest
from services.trainer.evaluators import BLOCKS, EVALUATORS, REPORTED
from services.trainer.gate import check_names
from services.trainer.prepared import Prepared, index_digest
from services.trainer.tuned_base import base_digests, linear_layers
from triptych.errors import InvalidArgument

Part = Literal["projector", "llm", "head", "tokens"]
TunedTask = Literal["understand", "generate", "edit"]
DRAWING: tuple[TunedTask, ...] = ("generate", "edit")
LOOKING: tuple[TunedTask, ...] = ("understand", "edit")
RESERVED = {"mix", "checkpoint", "evaluate", "export", "publish"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Lora(_Frozen):
    """Low-rank adapters on the LLM's linear layers (Hu et al. 2021), merged into them when the stage is written."""

    rank: int = Field(128, ge=1)
    alpha: int = Field(256, ge=1, description="adapters count alpha / rank times")
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), min_length=1
    )


class TuningStage(_Frozen):
    """One pass over some of the data with some of the parts trained; the others are frozen.

    L = L_und + generation_weight * L_gen (GenLLaVA eq. 3): the mean over all labelled tokens of the batch, [IMG] tokens
    included, and over all of its target pictures.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    train: tuple[Part, ...] = Field(min_length=1, description="tokens: rows of the special tokens only; llm has them")
    tasks: tuple[TunedTask, ...] = Field(("understand", "generate", "edit"), min_length=1)
    groups: tuple[str, ...] = Field((), description="of the mix; none: all")
    data: Path | None = Field(None, description="a prepared mix of its own, instead of the recipe's")
    steps: int | None = Field(None, ge=1, description="instead of epochs")
    epochs: float = Field(1.0, gt=0)
    batch_size: int = Field(128, ge=1, description="samples of a step, over all processes")
    learning_rate: float = Field(2e-5, gt=0)
    lr_scales: dict[Part, float] = Field(default_factory=dict, description="relative to learning_rate, by part")
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="share of the steps")
    lr_floor: float = Field(0.0, ge=0, le=1)
    weight_decay: float = Field(0.1, ge=0, description="not of norms, biases, head queries and single token rows")
    beta2: float = Field(0.999, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    generation_weight: float = Field(0.5, ge=0)
    condition_dropout: float = Field(0.1, ge=0, lt=1, description="target pictures denoised from the null conditioning")
    lora: Lora | None = None
    evaluate_every: int = Field(500, ge=1)
    save_every: int = Field(250, ge=1)
    gate: dict[str, float] = Field(default_factory=dict, description="metric name -> least value to go on")

    @property
    def draws(self) -> bool:
        """Whether its data may hold pictures to draw."""
        return bool(set(DRAWING) & set(self.tasks))

    @property
    def learns_to_draw(self) -> bool:
        """Whether a denoising loss reaches the hidden states and the head."""
        return self.draws and self.generation_weight > 0

    @property
    def looks(self) -> bool:
        """Whether its data may hold pictures to look at."""
        return bool(set(LOOKING) & set(self.tasks))

    @property
    def figures(self) -> tuple[str, ...]:
        """What it reports on samples held out, if there are any."""
        return ("understanding", "tokens_right", *(("generation",) if self.learns_to_draw else ()))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, values in (("train", self.train), ("tasks", self.tasks), ("groups", self.groups)):
            if len(set(values)) < len(values):
                raise ValueError(f"{self.name}: {name} {list(values)} says something twice")
        if {"llm", "tokens"} <= set(self.train):
            raise ValueError(f"{self.name}: train has llm and tokens, but tokens are rows of the llm")
        if self.lora and "llm" not in self.train:
            raise ValueError(f"{self.name}: lora adapts the llm, which train {list(self.train)} does not name")
        if "head" in self.train and not self.learns_to_draw:
            raise ValueError(
                f"{self.name}: the head learns from tasks generate and edit with generation_weight above 0, not from "
                f"{list(self.tasks)} with {self.generation_weight}"
            )
        if "projector" in self.train and not self.looks:
            raise ValueError(f"{self.name}: the projector learns from tasks understand and edit, not {self.tasks}")
        if unknown := sorted(set(self.lr_scales) - set(self.train)):
            raise ValueError(f"{self.name}: lr_scales names {unknown}, which train does not")
        if not all(scale > 0 for scale in self.lr_scales.values()):
            raise ValueError(f"{self.name}: lr_scales must be above 0, not {self.lr_scales}")
        if self.steps and "epochs" in self.model_fields_set:
            raise ValueError(f"{self.name}: steps {self.steps} and epochs {self.epochs}: say one of them")
        return self

    def schedule(self, steps_per_epoch: int, distribution: Distribution) -> Stage:
        """What the engine goes by, once it is known how much data there is."""
        steps = self.steps or max(1, round(self.epochs * steps_per_epoch))
        same = (
            *("batch_size", "learning_rate", "lr_floor", "weight_decay", "beta2", "max_grad_norm", "ema_decay"),
            *("evaluate_every", "save_every", "gate"),
        )
        values: dict[str, Any] = {key: getattr(self, key) for key in same}
        warmup = math.ceil(self.warmup_ratio * steps)
        return Stage(steps=steps, warmup_steps=warmup, distribution=distribution, **values)


class TunedCheckpoint(_Frozen):
    """What the checkpoint says of itself; defaults of its services are the base's where nothing is said."""

    version: str
    num_inference_steps: int | None = Field(None, ge=1, le=200)
    guidance_scale: float | None = Field(None, ge=0, le=50)
    max_tokens: int | None = Field(None, ge=1)
    weights: Literal["f32", "bf16"] = "bf16"


class TunedEvaluate(_Frozen):
    """What the checkpoint must reach to be published: of the last stage's figures on the samples held out, and of data
    sets as `triptych evaluate` takes them."""

    data: dict[str, Path] = Field(default_factory=dict, description="evaluator -> folder of its data set")
    num_records: int = Field(0, ge=0, description="of each data set, the first ones; 0: all")
    gate: dict[str, float] = Field(default_factory=dict, description="figure -> least value")


class TuningRecipe(_Frozen):
    """From a checkpoint and a mix to a better checkpoint."""

    compile: ClassVar[bool] = False  # compiled forward passes are for stages in one process

    kind: Literal["tuning"] = "tuning"
    name: str = Field(pattern=NAME)
    seed: int = Field(0, ge=0)
    out: Path
    runs: Path = Path("runs")
    base: Path = Field(description="the checkpoint to start from")
    data: Path | None = Field(None, description="a prepared mix")
    mix: Path | None = Field(None, description="the recipe of a mix, prepared as the first stage")
    held_out: int = Field(256, ge=0, description="samples never trained on, for the figures of every evaluation")
    spread: Distribution = Field(Distribution(), alias="distribution", description="of every training stage")
    stages: tuple[TuningStage, ...] = Field(min_length=1)
    checkpoint: TunedCheckpoint
    evaluate: TunedEvaluate = TunedEvaluate()
    export: ExportStage = ExportStage()

    @field_validator("stages")
    @classmethod
    def _named(cls, stages: tuple[TuningStage, ...]) -> tuple[TuningStage, ...]:
        names = [stage.name for stage in stages]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"stages named twice: {', '.join(repeated)}")
        if taken := sorted(RESERVED & set(names)):
            raise ValueError(f"stages may not be named {', '.join(taken)}: the trainer has stages of that name")
        return stages

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.data is None) == (self.mix is None):
            raise ValueError("say either data, a prepared mix, or mix, the recipe of one")
        num_ranks = self.spread.num_nodes * self.spread.num_processes
        for stage in self.stages:
            if stage.batch_size % num_ranks:
                raise ValueError(f"{stage.name}: batch_size {stage.batch_size} is no multiple of {num_ranks} processes")
        if self.out.resolve() == self.base.resolve():
            raise ValueError(f"out {self.out} is the base, which stays as it is")
        return self

    @property
    def folder(self) -> Path:
        """Where the run keeps its state."""
        return self.runs / self.name

    def stage(self, name: str) -> TuningStage:
        """Raises InvalidArgument listing the known names."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise InvalidArgument(f"unknown stage {name!r}, known: {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the training stages, in order."""
        return tuple(stage.name for stage in self.stages)

    def distribution(self, stage: str) -> Distribution | None:
        """How a stage is spread; None for one process."""
        return self.spread if stage in self.names else None

    def digest(self, *stages: str) -> str:
        """Identity of the named stages' settings, the base and the data. What does not touch the weights, but by
        rounding, is left out. Raises InvalidArgument when base or data are not there."""
        settings: dict[str, Any] = {"seed": self.seed}
        for name in stages:
            part: Any = self.stage(name) if name in self.names else getattr(self, name, None)
            if isinstance(part, BaseModel):
                values = part.model_dump(mode="json")
                settings[name] = {key: value for key, value in values.items() if key not in NOT_WEIGHTS}
        if self.mix:
            settings["data"] = Mix.read(self.mix).digest
        if set(stages) & set(self.names):
            settings |= {"held_out": self.held_out, "precision": self.spread.precision}
            settings["base"] = base_digests(self.base)
            folders = {self.stage(name).data or self.data for name in set(stages) & set(self.names)}
            settings["prepared"] = sorted(index_digest(folder) for folder in folders if folder)
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def check(self) -> None:
        """Raises InvalidArgument, before any work, naming what is missing and what does not fit together, and
        FailedPrecondition for a mix that is not whole."""
        base_digests(self.base)
        check_out(self.out, self.folder)
        known = [name for name in EVALUATORS if name not in BLOCKS]  # those take no data
        for name, folder in self.evaluate.data.items():
            if name not in known:
                raise InvalidArgument(f"evaluate.data: unknown evaluator {name!r}, known: {', '.join(known)}")
            if not folder.is_dir():
                raise InvalidArgument(f"evaluate.data: {name}'s folder {folder} does not exist")
        for stage in self.stages:
            self._check_stage(stage)
            self._check_data(stage)
            figures = stage.figures if self.held_out else ()
            check_names(f"{stage.name}: gate", stage.gate, figures)
        reported = [figure for name in self.evaluate.data for figure in REPORTED[name]]
        check_names("evaluate.gate", self.evaluate.gate, [*figures, *reported])

    def _check_stage(self, stage: TuningStage) -> None:
        """Against the base."""
        if stage.draws and not (self.base / "decoder" / "card.json").is_file():
            raise InvalidArgument(
                f"{stage.name}: tasks {list(stage.tasks)}, but base {self.base} has no decoder to draw with"
            )
        if not stage.lora:
            return
        layers = linear_layers(self.base)
        if unknown := sorted(set(stage.lora.targets) - layers):
            raise InvalidArgument(f"{stage.name}: lora.targets {unknown}: the LLM's linear layers are {sorted(layers)}")

    def _check_data(self, stage: TuningStage) -> None:
        """Against its mix: all of it where it is prepared already, its groups where it is not."""
        prepared = self._prepared(stage)
        groups = prepared.groups if prepared else self._mix().shares
        if unknown := sorted(set(stage.groups) - set(groups)):
            raise InvalidArgument(f"{stage.name}: groups {unknown}: the mix has {sorted(groups)}")
        if prepared is None:
            return
        size = stage.batch_size
        if size + self.held_out > prepared.num_samples:
            raise InvalidArgument(
                f"{stage.name}: batch_size {size} and held_out {self.held_out} are more than the "
                f"{prepared.num_samples} samples there are"
            )
        never = draw_held_out(prepared.num_samples, self.held_out, self.seed)
        if (found := prepared.count(stage.tasks, stage.groups, size, never)) < size:
            named = f"tasks {list(stage.tasks)}" + (f" in groups {list(stage.groups)}" if stage.groups else "")
            named += f" beside the {self.held_out} held out" if self.held_out else ""
            raise InvalidArgument(f"{stage.name}: batch_size {size}, but the mix has {found} samples of {named}")
        if "head" in stage.train and not prepared.count(set(DRAWING) & set(stage.tasks), stage.groups, 1, never):
            raise InvalidArgument(f"{stage.name}: train has the head, but the data have no pictures to draw")

    def _mix(self) -> Mix:
        assert self.mix is not None
        mix = Mix.read(self.mix)
        if not mix.length:
            raise InvalidArgument(f"mix {self.mix} has no [length] table: samples are cut and counted by it")
        return mix

    def _prepared(self, stage: TuningStage) -> Prepared | None:
        """The recipe's own mix counts as soon as it is there, so that no later stage has to be waited for."""
        folder = stage.data or self.data
        if folder is None and done_digest(self.folder / "mix") == self.digest("mix"):
            folder = self.folder / "mix" / "out"
        return Prepared.read(folder) if folder else None
