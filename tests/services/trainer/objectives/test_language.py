"""The LLM's loss is transformers' own over the assistant's tokens, in rows packed with whole conversations."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from services.trainer.data.tokens import IGNORE, train_tokenizer
from services.trainer.objectives.language import LanguageObjective
from tests.services.trainer.tiny_recipe import objective, tiny_recipe
from triptych.errors import InvalidArgument
from triptych.models.llms.mistral import MistralLlm
from triptych.prompts import PromptTemplate


def made(upstream: Path, **changed: Any) -> LanguageObjective:
    own: LanguageObjective = objective(tiny_recipe(llm=changed), "llm", upstream)
    return own


@torch.no_grad()
def test_the_loss_is_transformers(upstream: Path) -> None:
    own = made(upstream)
    ids, labels = own._batch(random.Random("llm/0/0"))
    wanted = own.llm.causal_lm(input_ids=ids, labels=labels).loss
    torch.testing.assert_close(own._loss(ids, labels)[0], wanted, rtol=1e-5, atol=1e-5)
    with torch.enable_grad():
        loss = own.backward(0)["loss"]
    torch.testing.assert_close(loss, wanted, rtol=0.02, atol=0)  # mixed precision


def test_rows_hold_whole_conversations(upstream: Path) -> None:
    own = made(upstream, max_tokens=256)
    bos, eos = (own.rows.codec.special_id(token) for token in ("<s>", "</s>"))
    ids, labels = own._batch(random.Random(0))
    assert ids.shape == (2, 256)
    for row, targets in zip(ids, labels, strict=True):
        used = row[row != own.pad_id].tolist()
        assert len(used) > 128
        assert used[0] == bos and used[-1] == eos
        assert used.count(bos) > 1
        assert (targets[row == own.pad_id] == IGNORE).all()
        assert ((targets == IGNORE) | (targets == row)).all()
        assert (targets[row == bos] == IGNORE).all()
        assert (targets[row == eos] == eos).all()


@pytest.fixture
def spelt_out(tmp_path: Path) -> dict[str, Path]:
    """The smallest vocabulary: it spells the same talk in many more tokens."""
    train_tokenizer(PromptTemplate(**tiny_recipe().template.model_dump()), 300, 100, 0, tmp_path)
    return {"tokenizer": tmp_path}


def test_conversations_that_never_fit_are_refused(spelt_out: dict[str, Path]) -> None:
    own = LanguageObjective(tiny_recipe(llm={"max_tokens": 32}), spelt_out)
    with pytest.raises(InvalidArgument, match="llm: hardly any conversation fits max_tokens 32"):
        own.backward(0)


def test_evaluation_takes_rows_of_any_length(spelt_out: dict[str, Path]) -> None:
    figures = LanguageObjective(tiny_recipe(), spelt_out).evaluate()
    assert figures.keys() == {"ask_right", "draw_right", "edit_right"}


@torch.no_grad()
def test_what_it_writes_loads_again(upstream: Path, tmp_path: Path) -> None:
    own = made(upstream)
    own.write(tmp_path)
    loaded = MistralLlm.load(tmp_path).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in own.llm.state_dict().items())
    config = own.llm.causal_lm.config
    assert (config.rms_norm_eps, config.sliding_window, config.tie_word_embeddings) == (1e-5, None, False)
    assert config.eos_token_id == own.rows.codec.special_id("</s>")
