"""What the engine tells of a sequence, in the order of the wire: see llm.proto."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TextDelta:
    """Text that will not change any more, and the ids decoded since the last one."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class ImageStart:
    """The model opens the reply's `index`-th picture."""

    index: int


@dataclass(frozen=True)
class HiddenStates:
    """Of one picture's [IMG] tokens: after the final norm, and their input embeddings; both (K, D)."""

    index: int
    hidden_states: NDArray[np.float32]
    embeddings: NDArray[np.float32]


@dataclass(frozen=True)
class ImageEnd:
    """Nothing more comes for this picture."""

    index: int


@dataclass(frozen=True)
class Finish:
    """The last event. `token_ids`: everything generated, special tokens included."""

    reason: str
    num_prompt_tokens: int
    num_images: int
    token_ids: tuple[int, ...]


Event = TextDelta | ImageStart | HiddenStates | ImageEnd | Finish
