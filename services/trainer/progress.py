"""What a person or a supervising program sees of stages under way: bars, or a JSON line for every report."""

import json
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

NO_JSON = (ValueError, RecursionError)
HIDDEN_FIGURES = {"step", "steps", "seconds", "gradient_norm", "learning_rate"}


class Display(Protocol):
    """Shows how far each stage is."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def start(self, stage: str) -> None:
        """The stage has begun."""

    def show(self, stage: str, figures: dict[str, float]) -> None:
        """The stage is at `step` of `steps`; the rest are its figures."""


class Bars:
    """A bar for each stage, on stderr."""

    def __init__(self, stages: list[str]) -> None:
        self._progress = Progress(
            TextColumn("{task.description:>12}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
        )
        self._bars: dict[str, TaskID] = {
            stage: self._progress.add_task(stage, total=None, figures="", start=False) for stage in stages
        }

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, stage: str) -> None:
        self._progress.start_task(self._bars[stage])

    def show(self, stage: str, figures: dict[str, float]) -> None:
        shown = "  ".join(f"{key} {value:.3f}" for key, value in figures.items() if key not in HIDDEN_FIGURES)
        step, steps = figures["step"], figures["steps"]
        self._progress.update(self._bars[stage], completed=step, total=steps, figures=shown)


class Lines:
    """A JSON line on stdout for each report: the figures and the stage's name."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, stage: str) -> None:
        self.show(stage, {})

    def show(self, stage: str, figures: dict[str, float]) -> None:
        print(json.dumps({"stage": stage, **figures}), flush=True)


def relay(process: subprocess.Popen[bytes], stage: str, log: Path, display: Display) -> None:
    """Shows what a stage reports on stdout until that is closed. Lines of others (NCCL has some) go to its log."""
    assert process.stdout is not None
    for line in process.stdout:
        with suppress(OSError):  # a full disk, a display that is gone: a stage that nobody reads from would stand still
            if (figures := _report(line)) is not None:
                display.show(stage, figures)
                continue
            with log.open("ab") as file:
                file.write(line)


def _report(line: bytes) -> dict[str, float] | None:
    """None for a line that is no report."""
    values = json_object(line)
    if not {"step", "steps"} <= values.keys() or not all(isinstance(v, int | float) for v in values.values()):
        return None
    return values


def json_object(line: bytes) -> dict[str, Any]:
    """Empty for a line that holds none."""
    try:
        values = json.loads(line)
    except NO_JSON:
        return {}
    return values if isinstance(values, dict) else {}
