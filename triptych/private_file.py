"""Files that hold secrets: readable by their owner alone, and replaced whole."""

import os
from pathlib import Path


def write_private(path: Path, data: bytes) -> None:
    """Mode 0600; readers see the old content or the new, never a part."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    partial.replace(path)
