"""Learning to see: the loss is transformers' over answers alone, and the picture is what the answers come from."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from services.trainer.config import Group
from services.trainer.data.tokens import IGNORE
from services.trainer.objectives import understanding
from services.trainer.objectives.understanding import UnderstandingObjective
from services.trainer.train import StageRun
from tests.services.trainer.tiny_recipe import objective, tiny_recipe
from triptych.errors import InvalidArgument
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llms.mistral import MistralLlm
from triptych.models.text import TextCodec


def made(upstream: Path, **changed: Any) -> UnderstandingObjective:
    own: UnderstandingObjective = objective(tiny_recipe(understanding=changed), "understanding", upstream)
    return own


@torch.no_grad()
def test_the_loss_is_transformers(upstream: Path) -> None:
    own = made(upstream)
    (group,) = own.config.groups
    batch = own.batch(group, random.Random("understanding/0/0"), "train")
    embeds = own.llm_stage.llm.embed(batch.ids)
    seen = own.encoder_stage(own.encoder_stage.preprocess(batch.seen))
    embeds[batch.ids == own.rows.image_id] = seen.flatten(0, 1)
    llm: Any = own.llm_stage.llm
    logits = llm.causal_lm(inputs_embeds=embeds).logits
    wanted = cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORE)
    loss, figures = own.losses([batch], 0, random.Random(0))
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(figures["understanding_ask"], wanted, rtol=1e-5, atol=1e-5)
    with torch.enable_grad():
        torch.testing.assert_close(own.backward(0)["loss"], wanted, rtol=0.02, atol=0)  # mixed precision


@pytest.mark.parametrize("number", [1, 2, 5])
@torch.no_grad()
def test_pictures_are_looked_at_in_calls_of_one_size(
    number: int, upstream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(understanding, "PICTURES_A_CALL", 2)
    own = made(upstream)
    pixels = torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(own._look(pixels), own.encoder_stage(pixels), rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_answer_depends_on_the_picture_of_its_own_row(upstream: Path) -> None:
    own = made(upstream)
    batch = own.batch(own.config.groups[0], random.Random(0), "train")
    before = own.hidden(batch)
    batch.seen[0] = batch.seen[1]
    after = own.hidden(batch)
    assert not torch.allclose(after[0], before[0])
    assert torch.equal(after[1], before[1])


@pytest.mark.parametrize("train_encoder", [False, True])
def test_the_encoder_learns_only_if_wanted(train_encoder: bool, upstream: Path) -> None:
    own = made(upstream, train_encoder=train_encoder)
    own.backward(0)
    gradients = [p.grad for p in own.encoder_stage.encoder.parameters() if p.grad is not None]
    assert bool(gradients) == train_encoder
    scales = [group["lr_scale"] for group in own.parameter_groups()]
    assert scales == ([0.5, 1.0, 1.0] if train_encoder else [1.0, 1.0])


def test_muon_takes_the_matrices_between_hidden_states(upstream: Path) -> None:
    own = made(upstream, muon_lr_scale=3.0)
    names = {id(p): name for name, p in own.module.named_parameters()}
    groups: list[Any] = own.parameter_groups()
    trained = [names[id(p)] for group in groups for p in group["params"]]
    assert sorted(trained) == sorted(name for name, p in own.module.named_parameters() if p.requires_grad)
    muon = [names[id(p)] for group in groups if group.get("muon") for p in group["params"]]
    assert "projector.linear_1.weight" in muon
    assert "llm.causal_lm.model.layers.0.mlp.up_proj.weight" in muon
    assert not [name for name in muon if "embed" in name or "lm_head" in name or "norm" in name]
    assert [group["lr_scale"] for group in groups] == [0.5, 1.5, 1.0, 3.0, 1.0, 3.0]


def test_muon_goes_on_where_it_stopped(upstream: Path, tmp_path: Path) -> None:
    def losses(run: StageRun, number: int) -> list[float]:
        return [float(run.advance()["loss"].detach()) for _ in range(number)]

    first = StageRun(made(upstream, muon_lr_scale=3.0), tmp_path, "d")
    losses(first, 2)
    first.save()
    first.states.finish()
    second = StageRun(made(upstream, muon_lr_scale=3.0), tmp_path, "d")
    second.resume()
    assert second.step == 2
    assert losses(second, 2) == losses(first, 2)


def test_rows_too_short_for_any_conversation_are_refused(upstream: Path) -> None:
    group = Group(kind="mixed", batch_size=1, max_tokens=32, num_turns=4)
    with pytest.raises(InvalidArgument, match="hardly any 'mixed' fits max_tokens 32"):
        made(upstream).batch(group, random.Random(0), "train")


def test_groups_may_hold_drawings_too(upstream: Path) -> None:
    """Their [IMG] tokens are labels as others are; there is no decoder to ask."""
    group = {"kind": "edit", "batch_size": 2, "max_tokens": 160}
    own = made(upstream, groups=[group])
    figures = own.backward(0)
    assert figures["loss"].isfinite()
    assert figures.keys() == {"loss", "understanding_edit"}


@torch.no_grad()
def test_what_it_writes_loads_again(upstream: Path, tmp_path: Path) -> None:
    own = made(upstream)
    own.write(tmp_path)
    encoder = EncoderStage.load(tmp_path / "encoder").state_dict()
    assert all(torch.equal(value, encoder[key]) for key, value in own.encoder_stage.state_dict().items())
    llm = MistralLlm.load(tmp_path / "llm").state_dict()
    assert all(torch.equal(value, llm[key]) for key, value in own.llm_stage.llm.state_dict().items())
    text = " a red cube [SOI]"
    assert TextCodec.load(tmp_path / "llm").encode(text) == own.llm_stage.codec.encode(text)
