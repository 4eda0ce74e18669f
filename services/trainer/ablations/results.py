"""The table that a paper would print: means and spreads over seeds, as JSON, as Markdown, and as a picture."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev

from services.trainer.ablations.parts import folder_of
from services.trainer.ablations.run import Run
from services.trainer.ablations.table import Table
from services.trainer.data.files import write_atomic, write_json

# Figures of the evaluators, and what the table calls them.
COLUMNS = {
    "questions": "questions",
    "drawn blocks (shape, colour and cell)": "drawn blocks",
    "drawn scenes (every block, none extra)": "drawn scenes",
    "edits (every block, none extra)": "edits",
    "answer_loss": "answer loss",
    "draw_loss": "drawing loss",
    "edit_loss": "edit loss",
}
ANSWERS = ("questions", "answer loss")  # what rows without pictures to draw have
LOSSES = {"answer loss", "drawing loss", "edit loss"}  # lower is better
ABSENT = "-"


@dataclass(frozen=True)
class Results:
    """Of the runs that are done."""

    table: Table
    runs: tuple[Run, ...]  # those that are done

    @classmethod
    def of(cls, table: Table, runs: list[Run]) -> "Results":
        return cls(table, tuple(run for run in runs if run.is_done()))

    @cached_property
    def values(self) -> dict[str, dict[str, list[float]]]:
        """By row and column, one for each run."""
        values: dict[str, dict[str, list[float]]] = {row.name: {} for row in self.table.rows}
        for run in self.runs:
            for name, value in run.figures().items():
                if name in COLUMNS:
                    values[run.row.name].setdefault(COLUMNS[name], []).append(value)
        return values

    def write(self) -> Path:
        """`results.json`, `results.md` and `results.png` in the table's folder; returns the second."""
        folder = folder_of(self.table)
        rows = {
            row: {
                column: {"values": found, "mean": fmean(found), "spread": stdev(found) if len(found) > 1 else None}
                for column, found in columns.items()
            }
            for row, columns in self.values.items()
        }
        about = {"title": self.table.title, "steps": self.table.steps, "num_scenes": self.table.num_scenes}
        runs = [
            {"row": run.row.name, "seed": run.seed, "digest": run.digest, "figures": run.figures()} for run in self.runs
        ]
        write_json(folder / "results.json", {**about, "rows": rows, "runs": runs})
        write_atomic(folder / "results.md", self.to_markdown().encode())
        if any(self.values.values()):
            self._plot(folder / "results.png")
        return folder / "results.md"

    def to_markdown(self) -> str:
        """Mean and standard deviation over the seeds."""
        columns = list(COLUMNS.values())
        lines = [f"| {self.table.title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        lines += [
            f"| {row} | {' | '.join(_cell(found.get(column, [])) for column in columns)} |"
            for row, found in self.values.items()
        ]
        return "\n".join(lines) + "\n"

    def _plot(self, path: Path) -> None:
        """A panel for each column: bars are means of shares, strokes those of losses, dots the seeds."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        rows = list(self.values)
        size = (2.4 * len(COLUMNS), 1.2 + 0.45 * len(rows))
        figure, axes = pyplot.subplots(1, len(COLUMNS), figsize=size, sharey=True)
        for axis, column in zip(axes, COLUMNS.values(), strict=True):
            for height, row in enumerate(rows):
                found = self.values[row].get(column, [])
                if found and column in LOSSES:  # whose differences are small: no bar from 0
                    axis.plot([fmean(found)] * 2, [height - 0.3, height + 0.3], color="#9db8dc", linewidth=4)
                elif found:
                    axis.barh(height, fmean(found), height=0.6, color="#9db8dc")
                axis.plot(found, [height] * len(found), "o", color="#1d3f6e", markersize=4)
            axis.set_title(column)
            if column not in LOSSES:
                axis.set_xlim(0, 1)
            axis.grid(axis="x", alpha=0.3)
        axes[0].set_yticks(range(len(rows)), rows)
        axes[0].invert_yaxis()
        figure.suptitle(self.table.title)
        figure.tight_layout()
        figure.savefig(path, dpi=120)
        pyplot.close(figure)


def _cell(values: list[float]) -> str:
    if not values:
        return ABSENT
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{spread}"
