"""How long to fuzz: a few hundred examples of each kind in the tests, as many as `make fuzz` is told otherwise.

Seeds: the same examples at every run of the tests (derandomized), besides the explicit ones; `make fuzz` draws new ones
and keeps what failed in .hypothesis/.
"""

import os
from typing import Final

from hypothesis import HealthCheck, settings

NUM_EXAMPLES: Final = int(os.environ.get("FUZZ_EXAMPLES", "0"))
SLOW: Final = [HealthCheck.too_slow, HealthCheck.data_too_large]


def examples(usual: int) -> settings:
    """Decorates a test."""
    if NUM_EXAMPLES:
        return settings(max_examples=NUM_EXAMPLES, deadline=None, suppress_health_check=SLOW)
    return settings(max_examples=usual, deadline=None, derandomize=True, database=None, suppress_health_check=SLOW)
