"""Replicas listed in a file that may change at any time: replicas come and go without a restart.

{"encoder": ["127.0.0.1:50051"], "llm": [...], "decoder": ["10.0.0.7:50053", {"address": "...", "share": 0.1}]}
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from services.orchestrator.discovery.place import Place
from triptych import strict_json
from triptych.card import KINDS
from triptych.errors import InvalidArgument

log = logging.getLogger(__name__)

MAX_FILE_BYTES: Final = 2**20


class AddressFile:
    """A file that becomes unreadable or malformed leaves the last good addresses in use, and says so in the log."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidArgument when it cannot be read now."""
        self._path = path
        self._places = read_places(path)
        self._seen = self._stamp()

    async def start(self) -> None:
        """Nothing to do."""

    async def find(self) -> Sequence[Place]:
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._places = await asyncio.to_thread(read_places, self._path)
            except InvalidArgument as error:
                log.warning("addresses not taken up", extra={"reason": str(error)})
        return self._places

    async def stop(self) -> None:
        """Nothing to do."""

    def _stamp(self) -> tuple[int, int, int]:
        try:
            stat = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def read_places(path: Path) -> tuple[Place, ...]:
    """Raises InvalidArgument naming the file and what is wrong in it."""
    try:
        values = strict_json.read(path, MAX_FILE_BYTES)
        return tuple(_places(values))
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"addresses file {path}: {error}") from error


def check_address(address: str) -> None:
    """Raises ValueError unless it is "host:port"."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not host:port")


def _places(values: object) -> Iterator[Place]:
    if not isinstance(values, dict) or not values.keys() <= set(KINDS):
        raise ValueError(f"must be an object with keys {', '.join(KINDS)}")
    for stage, entries in values.items():
        if not isinstance(entries, list):
            raise ValueError(f"{stage} must be a list")
        for entry in entries:
            yield _place(stage, entry if isinstance(entry, dict) else {"address": entry})


def _place(stage: str, entry: dict[str, object]) -> Place:
    address, share = entry.get("address"), entry.get("share")
    if not entry.keys() <= {"address", "share"} or not isinstance(address, str):
        raise ValueError(f"{stage}: {entry!r} must be an address, or an object of address and share")
    check_address(address)
    if share is not None and (not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share <= 1):
        raise ValueError(f"{stage} {address}: share is {share!r}, must be 0 to 1")
    return Place(stage, address, address.rpartition(":")[0], share)
