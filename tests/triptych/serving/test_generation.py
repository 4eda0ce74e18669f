from dataclasses import replace
from pathlib import Path

from services.encoder.config import EncoderConfig
from tests.services.orchestrator.cards import encoder_card
from triptych.serving.generation import generation_of

CARD = encoder_card(digest="sha256:0123456789abcdef")
CONFIG = EncoderConfig(checkpoint=Path("/a"))


def test_replicas_of_one_build_are_one_generation() -> None:
    elsewhere = EncoderConfig(checkpoint=Path("/b"), port=7, health_port=8, share=0.1, log_level="debug")
    assert generation_of(CARD, CONFIG) == generation_of(CARD, elsewhere)
    assert generation_of(CARD, CONFIG).startswith("0123456789ab.")


def test_whatever_may_change_an_answer_makes_another() -> None:
    builds = [
        (CARD, CONFIG),
        (replace(CARD, digest="sha256:fedcba9876543210"), CONFIG),
        (replace(CARD, outputs=encoder_card("in@2").outputs), CONFIG),
        (CARD, EncoderConfig(checkpoint=Path("/a"), backend="onnxruntime")),
        (CARD, EncoderConfig(checkpoint=Path("/a"), max_batch_size=3)),
        (CARD, EncoderConfig(checkpoint=Path("/a"), release="0.2.0-gpu")),
    ]
    assert len({generation_of(card, config) for card, config in builds}) == len(builds)
