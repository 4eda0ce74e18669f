"""Near-duplicates across sources: each record is compared with those kept before it, and with no others.

Pictures are put into clusters first (256-bit hashes at most d bits apart agree in one of d + 1 slices, so nothing is
missed); then texts are compared among records with the same task and clusters, by the usual bands of a MinHash
signature.
"""

import hashlib
from array import array
from itertools import pairwise

import numpy as np

from services.trainer.data.fingerprints import HASH_BITS, NUM_PERMUTATIONS, Signature, distance, similarity
from services.trainer.data.mix import Dedup
from services.trainer.data.scanning import Scanned
from triptych.prompts import Task

BAND_ROWS = 4  # of a signature: at similarity 0.8, 16 bands of 4 miss two pairs in ten thousand


class PictureClusters:
    """Numbers pictures; the same number for pictures near the first of their cluster."""

    def __init__(self, max_distance: int) -> None:
        self.max_distance = max_distance
        bounds = np.linspace(0, HASH_BITS, max_distance + 2).astype(int).tolist()
        self._slices = [(start, (1 << (end - start)) - 1) for start, end in pairwise(bounds)]
        self._by_sha: dict[bytes, int] = {}
        self._leaders: list[int] = []
        self._buckets: list[dict[int, array[int]]] = [{} for _ in self._slices]

    def cluster(self, sha256: str, hashed: int) -> int:
        key = bytes.fromhex(sha256)
        if key not in self._by_sha:
            near = self._near(hashed)
            self._by_sha[key] = self._add(hashed) if near is None else near
        return self._by_sha[key]

    def _near(self, hashed: int) -> int | None:
        for (shift, mask), buckets in zip(self._slices, self._buckets, strict=True):
            for leader in buckets.get(hashed >> shift & mask, ()):
                if distance(self._leaders[leader], hashed) <= self.max_distance:
                    return leader
        return None

    def _add(self, hashed: int) -> int:
        number = len(self._leaders)
        self._leaders.append(hashed)
        for (shift, mask), buckets in zip(self._slices, self._buckets, strict=True):
            buckets.setdefault(hashed >> shift & mask, array("I")).append(number)
        return number


class Deduplicator:
    """Remembers what was kept: about 3.5 KB a record, 7 KB where it has a picture."""

    def __init__(self, config: Dedup) -> None:
        self.config = config
        self._clusters = PictureClusters(config.picture_distance)
        self._names: list[str] = []
        self._signatures: list[Signature] = []
        self._buckets: dict[bytes, array[int]] = {}

    def original(self, name: str, record: Scanned) -> str | None:
        """The name of the kept record that this one repeats; None when there is none, and then it is kept as `name`."""
        if not self.config.enabled:
            return None
        shown = [self._clusters.cluster(s, h) for s, h in zip(record.sha256s, record.hashes, strict=True)]
        keys = _keys(record.task, shown, record.signature)
        for key in keys:
            for other in self._buckets.get(key, ()):
                if similarity(self._signatures[other], record.signature) >= self.config.text_similarity:
                    return self._names[other]
        for key in keys:
            self._buckets.setdefault(key, array("I")).append(len(self._names))
        self._names.append(name)
        self._signatures.append(record.signature)
        return None


def _keys(task: Task, clusters: list[int], signature: Signature) -> list[bytes]:
    """One for each band of the signature, each with the task and the pictures: to draw a caption is not to tell it."""
    shown = ",".join([task, *map(str, clusters)]).encode()
    bands = signature.reshape(NUM_PERMUTATIONS // BAND_ROWS, BAND_ROWS)
    return [
        hashlib.blake2b(band.tobytes() + bytes([number]) + shown, digest_size=8).digest()
        for number, band in enumerate(bands)
    ]
