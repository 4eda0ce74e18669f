"""What a caller may ask of a picture, checked against the card. Plain Python."""

import math
from dataclasses import dataclass
from typing import Final, Self

from triptych.card import Card
from triptych.errors import CheckpointError, InvalidArgument

MAX_SEED: Final = 2**63 - 1
MAX_GUIDANCE_SCALE: Final = 50.0


@dataclass(frozen=True)
class DecoderFacts:
    """What the card says about this decoder's pictures."""

    default_num_inference_steps: int
    default_guidance_scale: float
    max_num_inference_steps: int

    @classmethod
    def of(cls, card: Card) -> Self:
        """Raises CheckpointError naming the fact that is missing or malformed, or a default that no caller may ask
        for."""
        facts = cls(
            card.fact("default_num_inference_steps", int),
            card.fact("default_guidance_scale", float),
            card.fact("max_num_inference_steps", int),
        )
        try:
            DecodeParams(
                seed=0,
                num_inference_steps=facts.default_num_inference_steps,
                guidance_scale=facts.default_guidance_scale,
                preview_interval=0,
            ).check(facts)
        except InvalidArgument as error:
            raise CheckpointError(f"{card.label}: the card's defaults: {error}") from error
        return facts


@dataclass(frozen=True, kw_only=True)
class DecodeParams:
    """Of one picture; `preview_interval` 0: no previews."""

    seed: int
    num_inference_steps: int
    guidance_scale: float
    preview_interval: int

    def check(self, facts: DecoderFacts) -> None:
        """Raises InvalidArgument naming the field, its value and the bound."""
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidArgument(f"params.seed is {self.seed}, must be 0 to {MAX_SEED}")
        if not 1 <= self.num_inference_steps <= facts.max_num_inference_steps:
            raise InvalidArgument(
                f"params.num_inference_steps is {self.num_inference_steps}, "
                f"must be 1 to {facts.max_num_inference_steps}"
            )
        if not (math.isfinite(self.guidance_scale) and 0.0 <= self.guidance_scale <= MAX_GUIDANCE_SCALE):
            raise InvalidArgument(
                f"params.guidance_scale is {self.guidance_scale:g}, must be 0 to {MAX_GUIDANCE_SCALE:g}"
            )
        if self.preview_interval < 0:
            raise InvalidArgument(f"params.preview_interval is {self.preview_interval}, must be at least 0")
