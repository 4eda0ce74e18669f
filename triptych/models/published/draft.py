"""A checkpoint under way: a folder beside the one that is asked for, which takes its name when all is well."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triptych.errors import CheckpointError, InvalidArgument


def check_sources(**folders: Path) -> None:
    """Raises CheckpointError naming the one that is no folder."""
    for name, folder in folders.items():
        if not folder.is_dir():
            raise CheckpointError(f"{name}: {folder} is not a folder")


def check_free(out: Path) -> None:
    """Raises InvalidArgument when there is something at `out`, or no folder that it could stand in."""
    if out.exists() or out.is_symlink():
        raise InvalidArgument(f"{out} exists already: remove it, or choose another name")
    if not out.absolute().parent.is_dir():
        raise InvalidArgument(f"{out}: {out.absolute().parent} is not a folder")


@contextmanager
def draft(out: Path) -> Iterator[Path]:
    """A new folder that becomes `out` when the block ends, and vanishes when it fails. A crash leaves it, and the next
    attempt clears it away."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        check_free(out)
        partial.rename(out)
    except BaseException:  # also Ctrl-C: nothing half-written is left behind
        shutil.rmtree(partial, ignore_errors=True)
        raise
