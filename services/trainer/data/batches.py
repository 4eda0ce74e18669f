"""Which samples make the batch of a step: like LLaVA's sampler, samples of a kind and of about a length together, but a
pure function of (seed, step), whatever the number of ranks.

Each epoch shuffles the samples of every kind and cuts them into windows of `WINDOW` batches. A window is sorted by
length and cut into batches; then the batches of the epoch are shuffled. What a kind has beyond whole batches is put
together into mixed ones, and what is beyond those too is left to the next epoch, which shuffles anew.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from triptych.errors import InvalidArgument

WINDOW = 32  # batches: wide enough for rows of nearly one length, narrow enough to stay random
Indices = NDArray[np.int64]


class GroupedBatches:
    """Samples are numbered from 0 as `kinds` and `lengths` (one each) have them."""

    def __init__(self, kinds: Sequence[str], lengths: Sequence[int], batch_size: int, seed: str) -> None:
        """Raises InvalidArgument when there are fewer samples than a batch has."""
        if len(kinds) < batch_size:
            raise InvalidArgument(f"batch_size is {batch_size}, but there are {len(kinds)} samples")
        self.batch_size, self.seed = batch_size, seed
        self._lengths = np.asarray(lengths, np.int64)
        own = np.asarray(kinds)
        self._members: list[Indices] = [np.flatnonzero(own == kind) for kind in sorted(set(kinds))]
        self._epoch = lru_cache(maxsize=2)(self._epoch_batches)

    def __len__(self) -> int:
        """Batches of one epoch."""
        return len(self._lengths) // self.batch_size

    def at(self, step: int) -> list[int]:
        """The samples of a step's batch, longest first."""
        epoch, place = divmod(step, len(self))
        batch = self._epoch(epoch)[place]
        return [int(index) for index in batch]

    def _epoch_batches(self, epoch: int) -> list[Indices]:
        words = np.frombuffer(f"{self.seed}/{epoch}".encode(), np.uint8)
        rng = np.random.Generator(np.random.PCG64(words.tolist()))
        batches: list[Indices] = []
        left: list[Indices] = []
        for members in self._members:
            order = rng.permutation(members)
            whole = len(order) - len(order) % self.batch_size
            batches += self._cut(order[:whole])
            left.append(order[whole:])
        mixed = rng.permutation(np.concatenate(left))
        batches += self._cut(mixed[: len(mixed) - len(mixed) % self.batch_size])
        return [batches[index] for index in rng.permutation(len(batches))]

    def _cut(self, order: Indices) -> list[Indices]:
        """Batches of a whole number of them, each window's sorted by length."""
        batches: list[Indices] = []
        for start in range(0, len(order), WINDOW * self.batch_size):
            window = order[start : start + WINDOW * self.batch_size]
            longest_first = window[np.argsort(-self._lengths[window], kind="stable")]
            batches += np.split(longest_first, len(window) // self.batch_size)
        return batches
