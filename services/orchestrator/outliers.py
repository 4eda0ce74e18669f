"""Replicas that fail or are slow beside others of the same card, though they answer when polled. Plain Python.

An outlier is left out for a while and then tried again, longer each time in a row. Never more than half of a card's
replicas are left out: when most are slow, slow is normal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

MAX_FAILURES: Final = 3  # in a row
MAX_SLOWNESS: Final = 3.0  # times the pace of the others
MIN_SAMPLES: Final = 5  # of a replica's pace, before it is compared
WEIGHT: Final = 0.3  # of the newest sample
EJECT_S: Final = 10.0
MAX_EJECT_S: Final = 120.0


@dataclass
class _Record:
    """What is known of one replica."""

    num_failures: int = 0
    pace_ms: float = 0.0
    num_samples: int = 0
    num_ejections: int = 0  # in a row
    ejected_until: float = 0.0


class Outliers:
    """Of all replicas, by address. Times are of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def succeeded(self, address: str, pace_ms: float) -> None:
        """`pace_ms`: for a unit of work that is alike everywhere, a token, a step or a picture."""
        record = self._records.setdefault(address, _Record())
        record.num_failures = 0
        weight = WEIGHT if record.num_samples else 1.0
        record.pace_ms += weight * (pace_ms - record.pace_ms)
        record.num_samples += 1

    def failed(self, address: str) -> None:
        """In a way that is the replica's fault."""
        self._records.setdefault(address, _Record()).num_failures += 1

    def forget(self, address: str) -> None:
        """Another process may be there next time."""
        self._records.pop(address, None)

    def ejected(self, addresses: Sequence[str], now: float) -> set[str]:
        """Which of `addresses`, the serving replicas of one card, are to be left out now."""
        places = len(addresses) // 2
        found = {a for a in addresses if self._of(a).ejected_until > now}
        for address in addresses:
            if address not in found and len(found) < places and self._stands_out(address, addresses):
                self._eject(address, now)
                found.add(address)
        return set(sorted(found, key=lambda a: -self._of(a).ejected_until)[:places])

    def _stands_out(self, address: str, addresses: Sequence[str]) -> bool:
        record = self._of(address)
        if record.num_failures >= MAX_FAILURES:
            return True
        others = [r.pace_ms for a in addresses if a != address and (r := self._of(a)).num_samples >= MIN_SAMPLES]
        if record.num_samples < MIN_SAMPLES or not others:
            return False
        is_slow = record.pace_ms > MAX_SLOWNESS * median(others)
        if not is_slow:
            record.num_ejections = 0
        return is_slow

    def _eject(self, address: str, now: float) -> None:
        """It starts over afterwards: what it was says nothing of what it will be."""
        record = self._of(address)
        seconds = min(MAX_EJECT_S, EJECT_S * 2**record.num_ejections)
        self._records[address] = _Record(num_ejections=record.num_ejections + 1, ejected_until=now + seconds)

    def _of(self, address: str) -> _Record:
        return self._records.get(address, _Record())
