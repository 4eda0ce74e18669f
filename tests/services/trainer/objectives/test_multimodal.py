"""L = L_und + 0.5 * L_gen, computed anew from its parts: row by row, with diffusers' own noise schedule."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from services.trainer.config import Group
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import Scene
from services.trainer.data.samples import make_sample
from services.trainer.data.tokens import IGNORE
from services.trainer.objectives.multimodal import MultimodalObjective
from services.trainer.objectives.understanding import Batch
from tests.services.trainer.tiny_recipe import GROUPS, objective, tiny_recipe
from triptych.models.decoder_stage import DecoderStage
from triptych.models.encoder_stage import EncoderStage
from triptych.models.processors import to_pixels
from triptych.models.unified import generate

K = 4


def made(upstream: Path, **changed: Any) -> MultimodalObjective:
    torch.set_num_threads(1)
    own: MultimodalObjective = objective(tiny_recipe(multimodal=changed), "multimodal", upstream)
    return own


def batches_of(own: MultimodalObjective, step: int) -> tuple[list[Batch], random.Random]:
    rng = random.Random(f"multimodal/0/{step}")
    return [own.batch(group, rng, "train") for group in own.config.groups], rng


def rows_alone(own: MultimodalObjective, batch: Batch) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Ids, labels and hidden states of each row without its padding, in a pass of its own."""
    pictures = iter(batch.seen)
    rows = []
    for ids, labels in zip(batch.ids, batch.labels, strict=True):
        length = int((ids != own.pad_id).nonzero().max()) + 1
        embeds = own.llm_stage.embed_ids(ids[:length].tolist())
        starts = (ids == own.rows.image_id).nonzero()[:: own.rows.num_image_tokens, 0].tolist()
        for start in starts:
            seen = own.encoder_stage(own.encoder_stage.preprocess([next(pictures)]))
            embeds = torch.cat([embeds[:, :start], seen, embeds[:, start + seen.shape[1] :]], 1)
        rows.append((ids[:length], labels[:length], own.llm_stage(embeds)[0]))
    assert next(pictures, None) is None
    return rows


def recomputed(own: MultimodalObjective, step: int) -> tuple[Tensor, Tensor]:
    """L_und and L_gen."""
    batches, rng = batches_of(own, step)
    logits, labels, states, embeds = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    targets, chosen = list[tuple[Scene, int]](), list[int]()
    first, *others = own.llm_stage.img_ids
    for group, batch in zip(own.config.groups, batches, strict=True):
        own_numbers = range(len(targets), len(targets) + len(batch.targets))
        targets += batch.targets
        if batch.targets:
            exact = group.kind != "mixed"
            chosen += list(own_numbers) if exact else rng.choices(own_numbers, k=group.batch_size)
        for row_ids, row_labels, hidden in rows_alone(own, batch):
            logits.append(own.llm_stage.logits(hidden[:-1]))
            labels.append(row_labels[1:])
            for at in (row_ids == first).nonzero()[:, 0].tolist():
                assert row_ids[at - 1] == own.llm_stage.soi_id
                assert row_ids[at + 1 : at + K].tolist() == others
                states.append(hidden[at : at + K])
                embeds.append(own.llm_stage.embed_ids([first, *others])[0])
    forced = torch.isin(torch.cat(labels), torch.tensor([first, *others, own.llm_stage.image_ids[-1]]))
    und = torch.zeros(())
    for part in (forced, ~forced):  # each has its own mean
        und = und + cross_entropy(torch.cat(logits)[part], torch.cat(labels)[part], ignore_index=IGNORE)
    conditioning = own.decoder_stage.head(torch.stack(states)[chosen], torch.stack(embeds)[chosen])
    draws = own.config.noise_draws
    conditioning = conditioning.repeat(draws, 1, 1)
    decoder = own.decoder_stage.decoder
    pixels = torch.cat([to_pixels(render(*targets[i])[None]) for i in chosen])
    latents = decoder.vae.encode(pixels).latent_dist.mean * decoder.vae.config.scaling_factor
    latents = latents.repeat(draws, 1, 1, 1)
    generator = torch.Generator().manual_seed(rng.getrandbits(31))
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.randint(0, 1000, (len(latents),), generator=generator)
    ddpm = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True)
    noisy = ddpm.add_noise(latents, noise, timesteps)
    velocity = ddpm.get_velocity(latents, noise, timesteps)
    return und, mse_loss(decoder.unet(noisy, timesteps, conditioning).sample, velocity)


@pytest.mark.parametrize("weight", [0.5, 2.0])
@torch.no_grad()
def test_the_loss_is_the_paper_s(weight: float, upstream: Path) -> None:
    own = made(upstream, generation_weight=weight)
    own.decoder_stage.head.get_submodule("model").get_parameter("weight").mul_(100)  # an untrained UNet hardly listens
    batches, rng = batches_of(own, 3)
    loss, figures = own.losses(batches, 3, rng)
    und, gen = recomputed(own, 3)
    torch.testing.assert_close(figures["understanding"], und, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(figures["generation"], gen, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, und + weight * gen, rtol=1e-5, atol=1e-5)
    assert "align" not in figures
    states = own.img_states
    own.img_states = lambda batch, hidden: states(batch, hidden.roll(1, 1))  # type: ignore[method-assign]
    batches, rng = batches_of(own, 3)
    shifted = own.losses(batches, 3, rng)[1]["generation"]  # from the positions before, as MGIE does
    assert (shifted - gen).abs() > 1e-3


def test_the_default_weight_is_a_half(upstream: Path) -> None:
    assert made(upstream).config.generation_weight == 0.5


@torch.no_grad()
def test_mixed_precision_is_near(upstream: Path) -> None:
    exact = sum(w * value for w, value in zip((1, 0.5), recomputed(made(upstream), 0), strict=True))
    with torch.enable_grad():
        loss = made(upstream).backward(0)["loss"]
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0)


@torch.no_grad()
def test_groups_of_one_kind_all_count(upstream: Path) -> None:
    """Short and long questions side by side."""
    short = {**GROUPS[0], "num_turns": 1}
    own = made(upstream, groups=[short, GROUPS[0], GROUPS[1]])
    batches, rng = batches_of(own, 0)
    _, figures = own.losses(batches, 0, rng)
    torch.testing.assert_close(figures["understanding"], recomputed(own, 0)[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_img_states_stand_at_the_img_tokens(upstream: Path) -> None:
    own = made(upstream)
    for group in own.config.groups[1:]:
        batch = own.batch(group, random.Random(1), "train")
        positions = torch.arange(batch.ids.numel()).reshape(*batch.ids.shape, 1).float()
        states, embeds = own.img_states(batch, positions.expand(-1, -1, own.recipe.llm.hidden_size))
        assert states.shape == (len(batch.targets), K, own.recipe.llm.hidden_size)
        for index, row in enumerate(states[..., 0].int().tolist()):
            assert row == list(range(row[0], row[0] + K))
            ids = batch.ids.flatten()
            assert ids[row].tolist() == own.llm_stage.img_ids
            around = ids[[row[0] - 1, row[-1] + 1]].tolist()
            assert around == [own.llm_stage.soi_id, own.llm_stage.image_ids[-1]]
            torch.testing.assert_close(embeds[index], own.llm_stage.embed_ids(own.llm_stage.img_ids)[0])


@pytest.mark.parametrize("kind", ["draw", "edit"])
@torch.no_grad()
def test_serving_hands_over_what_training_saw(kind: Any, upstream: Path) -> None:
    """[IMG] states under teacher forcing are those that generation gives to the decoder."""
    own = made(upstream)
    group = Group(kind=kind, batch_size=1, max_tokens=160)
    batch = own.batch(group, random.Random(5), "train")
    sample = make_sample(kind, random.Random(5), "train", 1, own.config.auto_task_share)
    pixels = own.encoder_stage.preprocess([Image.fromarray(picture) for picture in sample.pictures()])
    segments = own.template.segments(list(sample.messages[:-1]), list(sample.tasks))
    prompt = own.llm_stage.embed(segments, list(own.encoder_stage(pixels)))
    _, (handed_over, *_) = generate(own.llm_stage, prompt, "force", 1, max_images=1)
    states, embeds = own.img_states(batch, own.hidden(batch))
    torch.testing.assert_close(states, handed_over.hidden_states, rtol=0, atol=1e-4)
    torch.testing.assert_close(embeds, handed_over.embeddings)


@torch.no_grad()
def test_rows_fit_and_pictures_belong_to_their_slots(upstream: Path) -> None:
    own = made(upstream)
    for group in own.config.groups:
        batch = own.batch(group, random.Random(2), "train")
        assert batch.ids.shape == batch.labels.shape == (group.batch_size, group.max_tokens)
        slots = int((batch.ids == own.rows.image_id).sum())
        assert slots == len(batch.seen) * own.rows.num_image_tokens
        drawn = int((batch.ids == own.llm_stage.soi_id).sum())
        assert drawn == len(batch.targets)
        assert (batch.labels[batch.ids == own.rows.image_id] == IGNORE).all()
        assert (batch.labels[batch.ids == own.pad_id] == IGNORE).all()


def test_alignment_fades_out(upstream: Path) -> None:
    own = made(upstream, align_weight=0.4, align_steps=2)
    with torch.no_grad():
        for step, weight in ((0, 0.4), (1, 0.2), (2, 0.0)):
            batches, rng = batches_of(own, step)
            loss, figures = own.losses(batches, step, rng)
            rest = figures["understanding"] + 0.5 * figures["generation"]
            align = figures.get("align", torch.zeros(()))
            assert (align > 0) == (weight > 0)
            torch.testing.assert_close(loss, rest + weight * align)


def test_the_head_has_a_learning_rate_of_its_own(upstream: Path) -> None:
    own = made(upstream, head_lr_scale=3.0)
    head = {id(p) for p in own.decoder_stage.head.parameters()}
    for group in own.parameter_groups():
        ids = {id(p) for p in group["params"]}  # type: ignore[attr-defined]
        assert group["lr_scale"] == (3.0 if ids <= head else 1.0) * (2.0 if group.get("muon") else 1.0)


@torch.no_grad()
def test_what_it_writes_loads_again(upstream: Path, tmp_path: Path) -> None:
    own = made(upstream)
    own.write(tmp_path)
    pairs: list[tuple[torch.nn.Module, torch.nn.Module]] = [
        (EncoderStage.load(tmp_path / "encoder"), own.encoder_stage),
        (DecoderStage.load(tmp_path / "decoder"), own.decoder_stage),
        (type(own.llm_stage.llm).load(tmp_path / "llm"), own.llm_stage.llm),
    ]
    for loaded, trained in pairs:
        state = trained.state_dict()
        assert set(loaded.state_dict()) == set(state)
        assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    assert pairs[1][0].null_conditioning.shape == (1, 8, 16)


@torch.no_grad()
def test_an_encoder_of_many_patches_is_judged_as_well(upstream: Path, tmp_path: Path) -> None:
    """Rows that are long enough for a small picture are none for a large one, whatever the recipe's groups allow."""
    recipe = tiny_recipe(encoder={"image_size": 160})
    for stage in ("tokenizer", "vae_decoder", "unet", "llm"):
        (tmp_path / stage).symlink_to(upstream / stage)
    for stage in ("encoder", "understanding"):
        objective(recipe, stage, tmp_path).write(tmp_path / stage)
    own: MultimodalObjective = objective(recipe, "multimodal", tmp_path)
    assert own.encoder_stage.encoder.num_patches == 100
    assert own.evaluate().keys() == made(upstream).evaluate().keys()
