"""An export's place in its component's folder: one writer at a time; files and card change together or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from triptych.card import EXPORTS_FOLDER, read_card, replace_card, verify_digest
from triptych.errors import CheckpointError
from triptych.exports import Export, export_folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits until no other process exports from `folder`. The lock is on the folder itself: it leaves no file, and is
    gone with the process that held it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def aside(folder: Path, name: str) -> Iterator[Path]:
    """An empty folder to write export `name` into; gone at the end unless it was published."""
    exports = folder / EXPORTS_FOLDER
    partial = exports / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not any(exports.iterdir()):
            exports.rmdir()


def publish(folder: Path, name: str, partial: Path, export: Export) -> None:
    """`partial` into the place of the export, and `export` into the card as it is by now, whose digest stays.

    Raises CheckpointError when the folder is not the component any more that was exported. Then, as on any other
    error, an older export and the card are as they were.
    """
    card = read_card(folder)
    if card.digest != export.of:
        raise CheckpointError(
            f"{card.label} in {folder} was replaced while {name} was made: that is of {export.of}, the card says "
            f"{card.digest}"
        )
    verify_digest(folder, card)
    with _moved(partial, export_folder(folder, name)):
        replace_card(folder, replace(card, exports={**card.exports, name: export.to_dict()}))


@contextmanager
def _moved(partial: Path, target: Path) -> Iterator[None]:
    """`partial` as `target`. What was there comes back on an error, and is deleted otherwise."""
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)  # left by a process that was killed
        target.rename(old)
    try:
        partial.rename(target)
        yield
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
