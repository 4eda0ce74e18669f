"""Commands of `triptych` that belong to a process of their own: this one becomes it."""

import os
import sys
from importlib.util import find_spec
from typing import NoReturn

from triptych.errors import FailedPrecondition


def hand_over(module: str, args: list[str]) -> NoReturn:
    """`python -m module args` in place of this process. Raises FailedPrecondition where there is no such module."""
    try:
        is_installed = find_spec(module) is not None
    except ModuleNotFoundError:  # not even its package
        is_installed = False
    if not is_installed:
        raise FailedPrecondition(f"{module} is not installed")
    os.execv(sys.executable, [sys.executable, "-m", module, *args])
