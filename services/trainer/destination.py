"""Where a recipe publishes its checkpoint: what stands there may be replaced only if it is one."""

from pathlib import Path


def is_free(out: Path) -> bool:
    """Whether nothing is there, or a checkpoint, which a new one replaces."""
    return not out.exists() or (out / "system.json").is_file()
