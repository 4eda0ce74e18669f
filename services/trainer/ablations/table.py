"""An ablation table: one TOML file that says what its rows change in a recipe, and how each of them is trained."""

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.trainer.config import Group, MultimodalStage, Recipe
from services.trainer.toml_file import checked, read_toml
from triptych.errors import InvalidArgument

Part = Literal["encoder", "projector", "llm", "head"]
PARTS: tuple[Part, ...] = ("encoder", "projector", "llm", "head")
DRAWN = {"draw", "edit", "mixed", "draw_crowd", "edit_crowd"}
COMMON_FILE = "common"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Phase(_Frozen):
    """Some of a row's steps, on some kinds of conversation."""

    groups: tuple[str, ...] = Field(min_length=1, description="names in the table's groups")
    share: float = Field(1.0, gt=0, le=1, description="of the row's steps")
    batch_scale: float = Field(1.0, gt=0, description="conversations in a step, as a factor of the groups' sizes")
    trained: tuple[Part, ...] = Field(PARTS, min_length=1)


class Row(_Frozen):
    """One variant: what differs from the base recipe, and its phases."""

    name: str
    template: dict[str, Any] = Field(default_factory=dict, description="over the recipe's [template]")
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict, description="over the recipe's earlier stages")
    task_tokens: bool = Field(False, description="half of the conversations name their task, and all requests do")
    phases: tuple[Phase, ...] = Field(min_length=1)

    @property
    def slug(self) -> str:
        """The name of the row's folder."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


class Table(_Frozen):
    """All rows, and what they have in common: the base recipe, the budget, the kinds of conversation."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    recipe: Path = Field(description="the base recipe; relative paths start at the table's file")
    parts: Path | None = Field(
        None, description="finished stages of the base recipe, as services.trainer.ablations.pack writes them"
    )
    steps: int = Field(ge=1, description="of each row, shared out among its phases")
    num_scenes: int = Field(ge=1, description="drawings and edits that a row is judged by")
    compile: bool = False
    stage: dict[str, Any] = Field(default_factory=dict, description="over the recipe's [multimodal], for every phase")
    start: Literal["apart", "understanding"] = Field(
        "apart", description="encoder and LLM each as pre-trained, with a fresh projector, or as the stage left them"
    )
    align_share: float = Field(0.0, ge=0, le=1, description="of a phase's steps: how long align_weight takes to fade")
    align_only_share: float = Field(0.0, ge=0, lt=1, description="of a phase's steps: without the denoising loss")
    groups: dict[str, tuple[Group, ...]]
    rows: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        slugs = [row.slug for row in self.rows]
        if len(set(slugs)) != len(slugs) or "" in slugs:
            raise ValueError(f"the rows' names must differ: {', '.join(row.name for row in self.rows)}")
        for row in self.rows:
            if unknown := {name for phase in row.phases for name in phase.groups} - set(self.groups):
                raise ValueError(f"row {row.name!r}: unknown groups {', '.join(sorted(unknown))}")
            if (total := sum(phase.share for phase in row.phases)) > 1 + 1e-6:
                raise ValueError(f"row {row.name!r}: its phases' shares add up to {total:g}")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Keys of the file named by `common` hold unless the table has its own. Raises InvalidArgument naming what is
        wrong and where."""
        what = "ablation table"
        values = read_toml(path, what)
        if common := values.pop(COMMON_FILE, None):
            values = read_toml(path.parent / common, what) | values
        for key in ("recipe", "parts"):
            if isinstance(values.get(key), str):
                values[key] = path.parent / values[key]
        return checked(cls, values, path, what)

    def base(self) -> Recipe:
        """Raises InvalidArgument when it cannot be read."""
        return Recipe.read(self.recipe)

    def upstream(self, row: Row) -> Recipe:
        """The base with the row's earlier stages; template and seed are the base's, so that rows can share."""
        return self._changed(row, row.stages)

    def variant(self, row: Row, phase: Phase, seed: int) -> Recipe:
        """What the phase's objective reads."""
        base = self.base()
        groups = [self._scaled(group, phase) for name in phase.groups for group in self.groups[name]]
        steps = max(1, round(self.steps * phase.share))
        stage = {
            **base.multimodal.model_dump(),
            **self.stage,
            "steps": steps,
            "groups": groups,
            "auto_task_share": 0.5 if row.task_tokens else 1.0,
            "align_steps": round(steps * self.align_share),
            "gate": {},
        }
        MultimodalStage.model_validate(stage)
        changed = {"template": {**base.template.model_dump(), **row.template}, "seed": seed, "compile": self.compile}
        return self._changed(row, {**row.stages, "multimodal": stage}, changed)

    def align_only_steps(self, phase: Phase) -> int:
        """At the beginning of the phase."""
        return round(round(self.steps * phase.share) * self.align_only_share)

    def draws(self, row: Row) -> bool:
        """Whether any of its conversations has a picture to draw."""
        return any(group.kind in DRAWN for phase in row.phases for name in phase.groups for group in self.groups[name])

    def _changed(self, row: Row, stages: dict[str, Any], top: dict[str, Any] | None = None) -> Recipe:
        values = self.base().model_dump()
        for name, stage in stages.items():
            values[name] = {**values.get(name, {}), **stage}
        try:
            return Recipe.model_validate({**values, **(top or {})})
        except ValidationError as error:
            raise InvalidArgument(f"row {row.name!r}: {error}") from error

    def _scaled(self, group: Group, phase: Phase) -> dict[str, Any]:
        return {**group.model_dump(), "batch_size": max(1, round(group.batch_size * phase.batch_scale))}
