"""TOML files as checked values; whatever is wrong with one is said with its name."""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from triptych.errors import InvalidArgument

M = TypeVar("M", bound=BaseModel)


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Raises InvalidArgument naming the file; `what` says what it should be."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidArgument(f"{what} {path} does not exist") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument(f"{what} {path}: {error}") from error


def checked(model: type[M], values: dict[str, Any], path: Path, what: str) -> M:
    """Raises InvalidArgument naming the file, the key and what is wrong with it."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidArgument(f"{what} {path}: {error}") from error
