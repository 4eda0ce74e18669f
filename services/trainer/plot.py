"""metrics.jsonl to a picture of the losses."""

import json
from pathlib import Path

NOT_LOSSES = {"step", "seconds", "gradient_norm", "learning_rate"}


def plot_losses(folder: Path) -> None:
    """Writes `folder/loss.png`: losses above, held-out figures (0 to 1) below. Stages without metrics have none."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    figure, axes = pyplot.subplots(2, 1, figsize=(8, 7), sharex=True)
    for axis, wanted, title in ((axes[0], True, "training"), (axes[1], False, "held out")):
        part = [line for line in lines if ("learning_rate" in line) is wanted]
        for key in sorted({key for line in part for key in line} - NOT_LOSSES):
            points = [(line["step"], line[key]) for line in part if key in line]
            axis.plot(*zip(*points, strict=True), label=key, marker=None if wanted else "o")
        axis.set_title(f"{folder.name}: {title}")
        axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[1].set_xlabel("step")
    figure.tight_layout()
    figure.savefig(folder / "loss.png", dpi=100)
    pyplot.close(figure)
