"""Commands whose work belongs to a service: the process becomes that of the service's module."""

import importlib.util
import os
import sys
from typing import NoReturn

from triptych.errors import FailedPrecondition


def hand_over(module: str, args: list[str]) -> NoReturn:
    """Becomes `python -m module args...`. Raises FailedPrecondition when the module is not installed."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # a package above it
        found = None
    if found is None:
        raise FailedPrecondition(f"{module} is not installed: pip install 'triptych[trainer]'")
    os.execv(sys.executable, [sys.executable, "-m", module, *args])
