"""How alike two outputs are, in one number."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def cosine(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Of all their values as one vector each: 1 when both are all zeros, NaN when either holds one."""
    a, b = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0.0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(a @ b / norms)
