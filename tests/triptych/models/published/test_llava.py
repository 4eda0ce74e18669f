"""LLaVA-1.5 as published is transformers' LlavaForConditionalGeneration after the import too."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import LlavaForConditionalGeneration

from tests.triptych.models.published import folders
from triptych.card import matches, read_card, verify_digest
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage
from triptych.models.probes import encoder_probe, llm_probe
from triptych.models.published.llava import import_llava
from triptych.models.unified import generate
from triptych.prompts import Message, Picture, Special, Text
from triptych.serving.probes import check_probes

QUESTION = "Where is the red cube?"
MAX_TOKENS = 12


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("published")
    folders.write_llava(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "llava"
    import_llava(published, out)
    return out


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))


def oracle_ids(published: Path) -> list[int]:
    """The prompt in the words of the model's authors, as its own tokenizer reads it."""
    tokenizer = Tokenizer.from_file(str(published / "tokenizer.json"))
    ids = tokenizer.encode(f"USER: <image>\n{QUESTION} ASSISTANT:", add_special_tokens=False).ids
    image_id = tokenizer.token_to_id("<image>")
    assert ids.count(image_id) == 1
    at = ids.index(image_id)
    return [tokenizer.token_to_id("<s>"), *ids[:at], *[image_id] * folders.NUM_PATCHES, *ids[at + 1 :]]


def test_the_prompt_is_the_authors(published: Path, checkpoint: Path) -> None:
    stage = LlmStage.load(checkpoint / "llm")
    segments = stage.template.segments([Message("user", (QUESTION, Picture(0)))], ["understand"])
    image_id = stage.codec.special_id("<image>")
    ids: list[int] = []
    for segment in segments:
        if isinstance(segment, Special):
            ids.append(stage.codec.special_id(segment.token))
        elif isinstance(segment, Text):
            ids += stage.codec.encode(segment.text)
        else:
            ids += [image_id] * folders.NUM_PATCHES
    assert ids == oracle_ids(published)


@torch.no_grad()
def test_same_logits_and_tokens(published: Path, checkpoint: Path) -> None:
    oracle = LlavaForConditionalGeneration.from_pretrained(str(published), dtype=torch.float32).eval()
    encoder, llm = EncoderStage.load(checkpoint / "encoder"), LlmStage.load(checkpoint / "llm")
    pixels = encoder.preprocess([picture()])
    ids = torch.tensor([oracle_ids(published)])
    wanted = oracle(input_ids=ids, pixel_values=pixels, output_hidden_states=True)
    segments = llm.template.segments([Message("user", (QUESTION, Picture(0)))], ["understand"])
    prompt = llm.embed(segments, list(encoder(pixels)))
    hidden = llm(prompt)
    num_known = Tokenizer.from_file(str(published / "tokenizer.json")).get_vocab_size()
    torch.testing.assert_close(hidden, wanted.hidden_states[-1], rtol=0, atol=1e-4)
    torch.testing.assert_close(llm.logits(hidden)[..., :num_known], wanted.logits[..., :num_known], rtol=0, atol=1e-4)
    generated = oracle.generate(
        input_ids=ids,
        pixel_values=pixels,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=MAX_TOKENS,
        do_sample=False,
        suppress_tokens=[*llm.banned_ids("forbid", 0), *range(num_known, wanted.logits.shape[-1])],
        eos_token_id=llm.eos_id,
        pad_token_id=0,
    )[0, ids.shape[1] :].tolist()
    reply, _ = generate(llm, prompt, "forbid", MAX_TOKENS)
    assert reply.token_ids == generated
    assert len(set(generated)) > 3  # no trivial loop


def test_services_accept_it(checkpoint: Path) -> None:
    encoder, llm = (read_card(checkpoint / kind) for kind in ("encoder", "llm"))
    for card in (encoder, llm):
        verify_digest(checkpoint / card.kind, card)
    assert matches(encoder.output("embeddings"), llm.input("embeddings"))
    assert llm.facts["handover"] == "none"
    assert not (checkpoint / "decoder").exists()
    seeing, speaking = EncoderStage.load(checkpoint / "encoder"), LlmStage.load(checkpoint / "llm")
    assert check_probes(encoder, checkpoint / "encoder", lambda *probe: encoder_probe(seeing, *probe)) > 0.9999
    assert check_probes(llm, checkpoint / "llm", lambda *probe: llm_probe(speaking, *probe)) > 0.9999
