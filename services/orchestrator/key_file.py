"""The file of API keys as it is now: read again when it changes."""

import logging
import time
from pathlib import Path
from typing import Final

from triptych.errors import InvalidArgument
from triptych.keys import StoredKey, find, read_keys

log = logging.getLogger(__name__)

LOOK_INTERVAL_S: Final = 0.5  # between two looks at the file's time


class KeyFile:
    """A file that becomes unreadable or malformed leaves the last good keys in use, and says so in the log."""

    def __init__(self, path: Path, look_interval_s: float = LOOK_INTERVAL_S) -> None:
        """Raises InvalidArgument when it cannot be read now."""
        self._path = path
        self._look_interval_s = look_interval_s
        self._keys = read_keys(path)
        self._seen = self._stamp()
        self._looked_s = time.monotonic()

    def find(self, text: str) -> StoredKey | None:
        """The entry whose key `text` is."""
        if time.monotonic() - self._looked_s >= self._look_interval_s:
            self._looked_s = time.monotonic()
            self._renew()
        return find(self._keys, text)

    def _renew(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = read_keys(self._path)
        except InvalidArgument as error:
            log.warning("keys not taken up", extra={"reason": str(error)})
        else:
            log.info("keys taken up", extra={"keys": len(self._keys)})

    def _stamp(self) -> tuple[int, int, int]:
        try:
            stat = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino)
