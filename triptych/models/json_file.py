"""JSON objects in a component's folder. Plain Python, for whoever reads a folder without torch."""

import json
from pathlib import Path
from typing import Any

from triptych.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """Raises CheckpointError naming the file when it is missing or not a JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return values


def read_value(path: Path, key: str) -> Any:
    """One value of a JSON object. Raises CheckpointError naming file and key when it is not there."""
    values = read_json(path)
    if key not in values:
        raise CheckpointError(f"{path}: no {key!r}")
    return values[key]
