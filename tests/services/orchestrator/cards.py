"""What the tests are about: cards that fit together, pictures, messages."""

import io
from dataclasses import replace
from typing import Any

from PIL import Image

from triptych.card import Card, Port
from triptych.prompts import PromptTemplate
from triptych.v1 import orchestrator_pb2 as pb

NUM_IMG_TOKENS = 4
HIDDEN_SIZE = 8


def picture(color: str = "red", size: tuple[int, int] = (8, 8), format: str = "PNG", mode: str = "RGB") -> bytes:
    data = io.BytesIO()
    Image.new(mode, size, color).save(data, format)
    return data.getvalue()


def encoder_card(space: str = "in@1", **changes: Any) -> Card:
    card = Card(
        "encoder",
        "siglip-tiny",
        "1.0.0",
        "sha256:e0e0",
        inputs=(Port("image", "image"),),
        outputs=(Port("embeddings", "embeddings", space, "f32", (3, HIDDEN_SIZE)),),
        facts={"num_image_tokens": 3, "max_pixels": 1000},
    )
    return replace(card, **changes)


def llm_card(space: str = "in@1", img_space: str = "img@1", handover: str = "once", **changes: Any) -> Card:
    card = Card(
        "llm",
        "mistral-tiny",
        "1.0.0",
        "sha256:1111",
        inputs=(Port("embeddings", "embeddings", space, "f32", (-1, HIDDEN_SIZE)),),
        outputs=()
        if handover == "none"
        else (Port("hidden_states", "hidden_states", img_space, "f32", (NUM_IMG_TOKENS, HIDDEN_SIZE)),),
        facts={
            "template": PromptTemplate(system="", num_img_tokens=NUM_IMG_TOKENS).to_dict(),
            "handover": handover,
            "max_model_len": 512,
        },
    )
    return replace(card, **changes)


def decoder_card(space: str = "img@1", handover: str = "once", **changes: Any) -> Card:
    card = Card(
        "decoder",
        "diffusion-tiny",
        "1.0.0",
        "sha256:dddd",
        inputs=(Port("hidden_states", "hidden_states", space, "f32", (NUM_IMG_TOKENS, HIDDEN_SIZE)),),
        outputs=(Port("image", "image"),),
        facts={"handover": handover, "max_num_inference_steps": 100, "width": 8, "height": 8},
    )
    return replace(card, **changes)


def message(role: str, *contents: str | bytes) -> pb.Message:
    parts = [pb.Content(text=c) if isinstance(c, str) else pb.Content(image=c) for c in contents]
    return pb.Message(role=f"ROLE_{role}", contents=parts)
