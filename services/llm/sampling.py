"""What a caller may ask of the sampler, checked. Plain Python."""

import math
from dataclasses import dataclass
from typing import Final

from triptych.errors import InvalidArgument

MAX_TEMPERATURE: Final = 10.0
MAX_NUM_STOPS: Final = 16
MAX_STOP_CHARS: Final = 256
MAX_SEED: Final = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Raises InvalidArgument naming the field, its value and the bound."""

    max_tokens: int
    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and 0.0 <= self.temperature <= MAX_TEMPERATURE):
            raise InvalidArgument(f"sampling.temperature is {self.temperature:g}, must be 0 to {MAX_TEMPERATURE:g}")
        if self.top_k < 0:
            raise InvalidArgument(f"sampling.top_k is {self.top_k}, must be at least 0")
        if not 0.0 < self.top_p <= 1.0:
            raise InvalidArgument(f"sampling.top_p is {self.top_p:g}, must be above 0 and at most 1")
        if self.max_tokens < 1:
            raise InvalidArgument(f"sampling.max_tokens is {self.max_tokens}, must be at least 1")
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidArgument(f"sampling.seed is {self.seed}, must be 0 to {MAX_SEED}")
        if len(self.stop) > MAX_NUM_STOPS:
            raise InvalidArgument(f"sampling.stop has {len(self.stop)} entries, at most {MAX_NUM_STOPS}")
        for index, text in enumerate(self.stop):
            if not 1 <= len(text) <= MAX_STOP_CHARS:
                raise InvalidArgument(
                    f"sampling.stop[{index}] has {len(text)} characters, must be 1 to {MAX_STOP_CHARS}"
                )
