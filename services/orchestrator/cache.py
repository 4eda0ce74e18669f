"""Embeddings already computed: content-addressed and bounded in bytes. An upgraded encoder has another digest, so
nothing it did not make is ever found.
"""

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.float32]


class EmbeddingCache:
    """Least recently used first out. Keys: digest of the picture's bytes x digest of the encoder's card."""

    def __init__(self, max_bytes: int) -> None:
        """0 bytes turns the cache off."""
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[tuple[str, str], Embeddings] = OrderedDict()

    def get(self, picture: str, encoder: str) -> Embeddings | None:
        found = self._entries.get((picture, encoder))
        if found is not None:
            self._entries.move_to_end((picture, encoder))
        return found

    def holds(self, picture: str, encoder: str) -> bool:
        """Like get, but not a use of the entry."""
        return (picture, encoder) in self._entries

    def put(self, picture: str, encoder: str, embeddings: Embeddings) -> None:
        """Entries larger than the whole cache are left out."""
        if embeddings.nbytes > self.max_bytes:
            return
        replaced = self._entries.pop((picture, encoder), None)
        self.num_bytes += embeddings.nbytes - (replaced.nbytes if replaced is not None else 0)
        self._entries[picture, encoder] = embeddings
        while self.num_bytes > self.max_bytes:
            _, evicted = self._entries.popitem(last=False)
            self.num_bytes -= evicted.nbytes

    def __len__(self) -> int:
        return len(self._entries)
