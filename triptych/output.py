"""The file that a picture is to go to, looked at before anything is drawn."""

from pathlib import Path

from triptych.errors import InvalidArgument


def check_output(path: Path) -> None:
    """Raises InvalidArgument where no picture could be written."""
    if not path.parent.is_dir():
        raise InvalidArgument(f"--output {path}: {path.parent} is not a folder")
    if path.is_dir():
        raise InvalidArgument(f"--output {path} is a folder, must be a file")
    suffix = path.suffix.lower()
    if suffix not in ("", ".png") and suffix not in _suffixes():
        raise InvalidArgument(f"--output {path}: no picture can be written as {suffix} here; .png always can")


def _suffixes() -> set[str]:
    """Those that Pillow writes; none without it, as in the base install."""
    try:
        from PIL import Image
    except ImportError:
        return set()
    return {suffix for suffix, name in Image.registered_extensions().items() if name in Image.SAVE}
