"""LLaVA-1.5, imported, answers at once: the real processes, without a decoder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from services.llm.detokenizer import Detokenizer
from tests.triptych.models.published import folders
from triptych.client import Client
from triptych.errors import Unimplemented
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage
from triptych.models.published.llava import import_llava
from triptych.models.unified import generate
from triptych.prompts import Message, Picture
from triptych.requests import Params
from triptych.up import LocalSystem

QUESTION = "Where is the red cube?"
MAX_TOKENS = 8


@torch.no_grad()
def expected(checkpoint: Path, photo: Image.Image) -> str:
    encoder, llm = EncoderStage.load(checkpoint / "encoder"), LlmStage.load(checkpoint / "llm")
    segments = llm.template.segments([Message("user", (Picture(0), QUESTION))], ["understand"])
    prompt = llm.embed(segments, list(encoder(encoder.preprocess([photo]))))
    token_ids = generate(llm, prompt, "forbid", MAX_TOKENS)[0].token_ids
    streamed = Detokenizer(llm.codec.decode)  # random tokens are no UTF-8, and spelled otherwise all at once
    deltas = [delta for token_id in token_ids for delta in streamed.add(token_id)]
    return "".join(delta.text for delta in (*deltas, *streamed.end()))


@pytest.mark.slow
def test_understanding_works_at_once(tmp_path: Path) -> None:
    folders.write_llava(tmp_path / "published")
    checkpoint = tmp_path / "llava"
    import_llava(tmp_path / "published", checkpoint)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")
    with LocalSystem(checkpoint, dtype="f32") as system, Client(system.address) as client:
        reply = client.ask(tmp_path / "photo.png", QUESTION, Params(temperature=0.0, max_tokens=MAX_TOKENS))
        assert reply.text == expected(checkpoint, photo)
        with pytest.raises(Unimplemented, match="cannot draw: its handover is none"):
            client.draw("a red cube")
        kinds = {replica.kind for replica in client.components().replicas}
    assert kinds == {"encoder", "llm"}
