"""What golden probes keep of an output, and the pictures they are made on. No torch here: every backend has probes."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Inputs = Mapping[str, Array]

NUM_VALUES: Final = 2039  # kept of a larger output; a prime, so that the kept ones fall on every channel
PHASES_PER_UNIT: Final = 8.0


def positions(size: int) -> NDArray[np.int64]:
    """Of the values kept of `size`."""
    count = min(size, NUM_VALUES)
    return np.arange(count, dtype=np.int64) * size // count


def thin(values: Array) -> Array:
    """The kept values, flat."""
    flat: Array = values.ravel()
    return flat[positions(flat.size)]


def phases(values: Array) -> Array:
    """Cosines compare directions only; as phases, a shift or a scale of the values changes the direction too."""
    angles = values.astype(np.float64) * PHASES_PER_UNIT
    return np.concatenate([np.sin(angles), np.cos(angles)]).astype(np.float32)


def picture(height: int, width: int, index: int) -> NDArray[np.uint8]:
    """(H, W, 3). Waves of several lengths and coarse blocks: every resize and every colour channel leaves its mark."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (3 + c + index)) + np.cos(y / (2 + 2 * c)) + np.sin((x + y) / 1.7) for c in range(3)]
    blocks = ((x // 11 + y // 7 + index) % 3)[..., None] * np.array([20, -15, 10])
    drawn: NDArray[np.uint8] = (np.stack(waves, axis=-1) * 30 + blocks + 128).clip(0, 255).astype(np.uint8)
    return drawn
