"""What came of evaluating a checkpoint, as JSON and as a page."""

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from services.trainer.data.files import write_atomic, write_json
from services.trainer.evaluators.base import Settings
from services.trainer.evaluators.figures import Figure
from services.trainer.evaluators.page import render_page
from services.trainer.evaluators.panel import Result
from triptych import __version__
from triptych.card import KINDS, read_card

JSON_FILE = "evaluation.json"
PAGE_FILE = "evaluation.html"
LIBRARIES = ("torch", "transformers", "diffusers", "numpy")


@dataclass(frozen=True)
class Evaluation:
    """Results of all evaluators, and what they depend on."""

    about: dict[str, Any]
    results: dict[str, Result]

    @property
    def figures(self) -> dict[str, Figure]:
        """All of them by name, in order."""
        return {name: figure for result in self.results.values() for name, figure in result.figures.items()}

    def to_dict(self) -> dict[str, Any]:
        evaluators = {
            name: {
                "title": result.title,
                "items": result.num_items,
                "seconds": result.seconds,
                "figures": {key: figure.to_dict() for key, figure in result.figures.items()},
            }
            for name, result in self.results.items()
        }
        return {**self.about, "evaluators": evaluators}

    def write(self, folder: Path) -> None:
        """`evaluation.json` and `evaluation.html`, each whole or not at all."""
        write_json(folder / JSON_FILE, self.to_dict())
        write_atomic(folder / PAGE_FILE, render_page(self.about, self.results).encode("utf-8", "replace"))


def about(checkpoint: Path, settings: Settings, data: tuple[tuple[str, Path], ...]) -> dict[str, Any]:
    """What the figures depend on."""
    cards = {kind: read_card(checkpoint / kind) for kind in KINDS if (checkpoint / kind).exists()}
    return {
        "checkpoint": {
            kind: {"name": card.name, "version": card.version, "digest": card.digest} for kind, card in cards.items()
        },
        "settings": {**asdict(settings), "dino": str(settings.dino) if settings.dino else None},
        "data": {name: str(folder) for name, folder in data},
        "versions": {
            "triptych": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
    }
