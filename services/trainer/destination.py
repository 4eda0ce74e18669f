"""Where a recipe publishes its checkpoint: what stands there may be replaced only if it is one."""

from pathlib import Path

from triptych.errors import InvalidArgument


def is_free(out: Path) -> bool:
    """Whether nothing is there, or a checkpoint, which a new one replaces."""
    return not out.exists() or (out / "system.json").is_file()


def check_out(out: Path, run: Path) -> None:
    """Raises InvalidArgument where nothing could be published after all the work in the folder `run`."""
    if not is_free(out):
        raise InvalidArgument(f"out {out} exists and is no checkpoint: it would not be overwritten")
    place, work = out.resolve(), run.resolve()
    if place == work or place in work.parents or work in place.parents:
        raise InvalidArgument(f"out {out} and the run's folder {run} are one inside the other: publish elsewhere")
