"""What a card says of its decoder must be what callers may ask for: they get it when they ask for nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.decoder.params import DecoderFacts
from triptych.card import read_card
from triptych.errors import CheckpointError


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"default_num_inference_steps": 250}, "num_inference_steps is 250, must be 1 to 50"),
        ({"default_guidance_scale": 80.0}, "guidance_scale is 80, must be 0 to 50"),
        ({"max_num_inference_steps": 3}, "num_inference_steps is 4, must be 1 to 3"),
    ],
)
def test_defaults_that_nobody_may_ask_for(tiny_checkpoint: Path, facts: dict[str, Any], named: str) -> None:
    card = read_card(tiny_checkpoint / "decoder")
    assert DecoderFacts.of(card).default_num_inference_steps == 4
    with pytest.raises(CheckpointError, match=f"defaults: .*{named}"):
        DecoderFacts.of(replace(card, facts={**card.facts, **facts}))
