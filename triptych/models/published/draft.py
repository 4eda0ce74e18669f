"""A checkpoint under way: a hidden folder beside the one that is asked for, which takes its name when all is well."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

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
    """A new folder that becomes `out` when the block ends, and vanishes when it fails; nobody else's has its name.

    A process that is killed leaves `.NAME.*.partial`. Raises InvalidArgument when there is an `out` by the end.
    """
    with TemporaryDirectory(
        prefix=f".{out.name}.", suffix=".partial", dir=out.absolute().parent, ignore_cleanup_errors=True
    ) as private:
        folder = Path(private) / out.name
        folder.mkdir()  # with the rights of any new folder, where the one around it is its owner's only
        yield folder
        check_free(out)
        folder.rename(out)
