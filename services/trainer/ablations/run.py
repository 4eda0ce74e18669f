"""One row under one seed: its phases one after the other, a checkpoint, its figures. A folder with done.json."""

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.trainer.ablations.parts import OUTPUT, Report, identity, inputs
from services.trainer.ablations.table import Row, Table
from services.trainer.config import NOT_WEIGHTS, Recipe
from services.trainer.data.files import write_json
from services.trainer.done import FILE, done_digest, write_done

LOOKS = ("blocks-questions",)
DRAWS = ("blocks-questions", "blocks-drawings", "blocks-edits")
STATE_FILE = "state.pt"
SETTINGS_FILE = "settings.json"
CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Run:
    """The row's every random choice that is not of its shared parts follows the seed."""

    table: Table
    row: Row
    seed: int

    @property
    def name(self) -> str:
        return f"{self.row.name}, seed {self.seed}"

    @property
    def digest(self) -> str:
        """Identity of all that the figures depend on: other settings make another run."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:16]

    def settings(self) -> dict[str, Any]:
        """All of them."""
        return {
            "parts": identity(self.table, self.row),
            "phases": [self._phase_settings(recipe) for recipe in self.recipes()],
            "trained": [phase.trained for phase in self.row.phases],
            "align_only_steps": [self.table.align_only_steps(phase) for phase in self.row.phases],
            "num_scenes": self.table.num_scenes,
            "task_tokens": self.row.task_tokens,
        }

    @property
    def folder(self) -> Path:
        """Rows that are the same in two tables are one run."""
        return self.table.base().runs / "ablations" / "runs" / self.digest

    def is_done(self) -> bool:
        return done_digest(self.folder) == self.digest

    def recipes(self) -> list[Recipe]:
        """Of its phases."""
        return [self.table.variant(self.row, phase, self.seed) for phase in self.row.phases]

    def figures(self) -> dict[str, float]:
        """Of a run that is done: values by name."""
        evaluation = json.loads((self.folder / FILE).read_text())["evaluation"]
        return {name: float(figure["value"]) for name, figure in evaluation.items()}

    def go(self, report: Report) -> None:
        """Does nothing when it is done; goes on from the last saved step otherwise."""
        if self.is_done():
            return
        start = time.monotonic()
        write_json(self.folder / SETTINGS_FILE, {"table": self.table.name, "row": self.row.name, **self.settings()})
        for number, recipe in enumerate(self.recipes()):
            self._train(number, recipe, report)
        self._checkpoint(len(self.row.phases) - 1)
        figures = {**self._evaluate(report), **self._losses()}
        self._tidy()
        write_done(self.folder, self.digest, figures, time.monotonic() - start)

    def _train(self, number: int, recipe: Recipe, report: Report) -> None:
        folder, own = self._phase(number), f"{self.digest}/{number}"
        if done_digest(folder) == own:
            return
        from services.trainer.ablations.phase import PREVIOUS, PhaseObjective  # torch is only needed here
        from services.trainer.train import train_stage

        given = inputs(self.table, self.row)
        if number:
            given[PREVIOUS] = self._phase(number - 1) / OUTPUT
        phase = self.row.phases[number]
        objective = PhaseObjective(recipe, given, phase.trained, self.table.align_only_steps(phase))
        train_stage(objective, folder, own, report)

    def _checkpoint(self, last_phase: int) -> None:
        from services.trainer.finishing import write_trained

        recipe = self.recipes()[last_phase]
        write_trained(recipe, self._phase(last_phase) / OUTPUT, self.folder / CHECKPOINT, self.digest)

    def _evaluate(self, report: Report) -> dict[str, Any]:
        from services.trainer.evaluate import evaluate_checkpoint

        evaluation = evaluate_checkpoint(
            self.folder / CHECKPOINT,
            DRAWS if self.table.draws(self.row) else LOOKS,
            num_scenes=self.table.num_scenes,
            auto_every=0 if self.row.task_tokens else 1,
            report=report,
        )
        evaluation.write(self.folder)
        return {name: figure.to_dict() for name, figure in evaluation.figures.items()}

    def _losses(self) -> dict[str, Any]:
        """Held-out losses of the last phase; those of pictures only where the head was trained."""
        last = json.loads((self._phase(len(self.row.phases) - 1) / FILE).read_text())["evaluation"]
        wanted = last if self.table.draws(self.row) else {"answer_loss"}
        return {name: {"value": last[name]} for name in wanted}

    def _tidy(self) -> None:
        """What is only needed to go on takes ten times the checkpoint's room."""
        for number in range(len(self.row.phases)):
            shutil.rmtree(self._phase(number) / OUTPUT, ignore_errors=True)
            (self._phase(number) / STATE_FILE).unlink(missing_ok=True)

    def _phase(self, number: int) -> Path:
        return self.folder / f"phase-{number}"

    def _phase_settings(self, recipe: Recipe) -> dict[str, Any]:
        values = recipe.model_dump(mode="json", include={"seed", "template", "multimodal", "checkpoint", "compile"})
        values["multimodal"] = {key: value for key, value in values["multimodal"].items() if key not in NOT_WEIGHTS}
        return values
