"""One trainer at a time in a run's folder, whoever started it."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from triptych.errors import Unavailable

UNKNOWN: Final = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # file systems without locks: jobs have their leases there


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Raises Unavailable while another process is. The lock is on the folder itself: it leaves no file, and is gone
    with the process that held it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Unavailable(f"another trainer is at work in {folder}: wait for it, or stop it") from None
    except OSError as error:
        if error.errno not in UNKNOWN:
            os.close(descriptor)
            raise
    try:
        yield
    finally:
        os.close(descriptor)
