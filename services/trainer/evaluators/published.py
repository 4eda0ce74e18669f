"""Files of published data sets, as they lie in a folder."""

import io
import re
from pathlib import Path
from typing import Any

from PIL import Image

from services.trainer.data.pictures import BROKEN
from services.trainer.data.sources.base import json_value
from triptych.errors import InvalidArgument
from triptych.rgb import as_rgb

PICTURES = {".jpg", ".jpeg", ".png", ".webp"}


def one_file(folder: Path, pattern: str) -> Path:
    """The one file in or below the folder whose name fits. Raises InvalidArgument when there is none or several."""
    found = sorted(folder.rglob(pattern))
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found) or "none"
        raise InvalidArgument(f"{folder} must hold one {pattern}, found: {names}")
    return found[0]


def read_list(path: Path, key: str | None = None) -> list[dict[str, Any]]:
    """A JSON list of objects, or the one under `key`. Raises InvalidArgument naming the file."""
    values = json_value(path)
    rows = values.get(key) if key and isinstance(values, dict) else values
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InvalidArgument(f"{path}: {key or 'the file'} is no list of objects, or is empty")
    return rows


def value(path: Path, row: Any, key: str, expected: type | tuple[type, ...]) -> Any:
    """Raises InvalidArgument naming the file and the key when the row has no such value."""
    found = row.get(key) if isinstance(row, dict) else row
    if not isinstance(found, expected):
        raise InvalidArgument(f"{path}: {key!r} is {found!r:.60} in a record")
    return found


def picture_paths(folder: Path) -> dict[int, Path]:
    """Pictures in or below the folder by the number their names end with: COCO_val2014_000000000042.jpg is 42."""
    found = {path: re.search(r"(\d+)$", path.stem) for path in folder.rglob("*") if path.suffix.lower() in PICTURES}
    return {int(match[1]): path for path, match in sorted(found.items()) if match}


def open_picture(source: Path | bytes, name: str) -> Image.Image:
    """RGB. Raises InvalidArgument naming the picture when it is missing or damaged."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return as_rgb(image)
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise InvalidArgument(f"picture {name}: {error}") from None
