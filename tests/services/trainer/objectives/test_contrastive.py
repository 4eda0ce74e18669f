"""The encoder's loss is SigLIP's own, and what it hands on is a vision tower as transformers writes it."""

import random
from pathlib import Path

import pytest
import torch
from transformers import SiglipVisionModel

from services.trainer.data.tokens import train_tokenizer
from services.trainer.objectives.contrastive import ContrastiveObjective
from tests.services.trainer.tiny_recipe import objective, tiny_recipe
from triptych.errors import InvalidArgument
from triptych.models.encoders.siglip import SiglipEncoder
from triptych.prompts import PromptTemplate


def made(upstream: Path) -> ContrastiveObjective:
    own: ContrastiveObjective = objective(tiny_recipe(), "encoder", upstream)
    return own


@torch.no_grad()
def test_the_loss_is_transformers(upstream: Path) -> None:
    own = made(upstream)
    pixels, ids = own._batch(random.Random("encoder/0/0"), 2, "train")
    wanted = own.pair(input_ids=ids, pixel_values=pixels, return_loss=True)
    torch.testing.assert_close(own._logits(pixels, ids), wanted.logits_per_image, rtol=1e-5, atol=1e-5)
    with torch.enable_grad():
        loss = own.backward(0)["contrast"]
    torch.testing.assert_close(loss, wanted.loss, rtol=0.02, atol=0)  # mixed precision


def test_captioning_needs_a_token_for_every_word(tmp_path: Path) -> None:
    recipe = tiny_recipe(tokenizer={"vocab_size": 300})
    train_tokenizer(PromptTemplate(**recipe.template.model_dump()), 300, 100, 0, tmp_path / "tokenizer")
    with pytest.raises(InvalidArgument, match="vocab_size 300 is too small for encoder.num_crowds"):
        objective(recipe, "encoder", tmp_path).backward(0)


def test_batches_hold_groups_one_edit_apart(upstream: Path) -> None:
    own = made(upstream)
    pixels, ids = own._batch(random.Random(0), 3, "train")
    assert pixels.shape == (12, 3, 32, 32)
    assert ids.shape == (12, 16)
    groups = pixels.reshape(3, 4, -1)
    within = (groups[:, :1] - groups[:, 1:]).abs().mean()
    across = (groups[:1] - groups[1:]).abs().mean()
    assert 0 < within < across


@torch.no_grad()
def test_what_it_writes_loads_again(upstream: Path, tmp_path: Path) -> None:
    own = made(upstream)
    own.write(tmp_path)
    vision = SiglipVisionModel.from_pretrained(str(tmp_path))
    pixels, _ = own._batch(random.Random(0), 1, "train")
    wanted = own.pair.vision_model(pixel_values=pixels, output_hidden_states=True)
    torch.testing.assert_close(vision(pixel_values=pixels).pooler_output, wanted.pooler_output)
    torch.testing.assert_close(SiglipEncoder.load(tmp_path)(pixels), wanted.hidden_states[-2])
