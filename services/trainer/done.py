"""done.json: the mark of a finished stage, there whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

FILE = "done.json"


def write_done(folder: Path, digest: str, evaluation: dict[str, Any], seconds: float) -> None:
    """Atomic: a kill at any moment leaves the stage either open or done."""
    partial = folder / f"{FILE}.partial"
    values = {"digest": digest, "evaluation": evaluation, "seconds": round(seconds, 1)}
    with partial.open("w") as file:
        file.write(json.dumps(values, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / FILE)


def done_digest(folder: Path) -> str | None:
    """Identity of the settings that finished the stage; None while it is open."""
    path = folder / FILE
    return str(json.loads(path.read_text())["digest"]) if path.exists() else None


def done_evaluation(folder: Path) -> dict[str, Any]:
    """What a finished stage says of itself."""
    evaluation: dict[str, Any] = json.loads((folder / FILE).read_text())["evaluation"]
    return evaluation
