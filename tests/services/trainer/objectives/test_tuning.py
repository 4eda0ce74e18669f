"""L = L_und + 0.5 * L_gen on a prepared mix, computed anew from its parts; shares of ranks add up; only what is to be
trained is."""

import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import mse_loss

from services.trainer.assembly import Assembly
from services.trainer.data.collate import TuningBatch
from services.trainer.data.reader import PreparedSample
from services.trainer.objectives.tuning import TuningObjective
from services.trainer.ranks import ALONE, Ranks, joined
from services.trainer.sharding import whole_weights
from services.trainer.train import StageRun
from tests.services.trainer.tuned import LORA, recipe
from triptych.errors import FailedPrecondition, InvalidArgument
from triptych.models.llm_stage import LlmStage
from triptych.prompts import ImageSlot

NUM_STEPS = 12


def made(root: Path, ranks: Ranks = ALONE, inputs: dict[str, Path] | None = None, **stage: Any) -> TuningObjective:
    """In float32, as `shard` makes what is trained: most tests do without it."""
    own = built(root, ranks, inputs, **stage)
    own.module.float()
    return own


def built(root: Path, ranks: Ranks = ALONE, inputs: dict[str, Path] | None = None, **stage: Any) -> TuningObjective:
    torch.set_num_threads(1)
    stage = {"condition_dropout": 0.0, **stage}
    distribution = {"device": "cpu", "precision": "f32", "micro_batch_size": stage.pop("micro_batch_size", 0)}
    base = stage.pop("base", "genllava")
    own = TuningObjective(recipe(root, stage, base=base, distribution=distribution), "all", inputs or {}, ranks)
    own.module.train()
    return own


def samples_of(own: TuningObjective, step: int) -> list[PreparedSample]:
    return [own.catalogue.read(own.trained_on[number]) for number in own.batches.at(step)]


def steps_of(own: TuningObjective, task: str, num: int = 1) -> list[int]:
    """Steps whose batch holds the task."""
    found = [s for s in range(40) if task in {sample.record.task for sample in samples_of(own, s)}]
    return found[:num]


def oracle_loss(own: TuningObjective, batch: TuningBatch, samples: list[PreparedSample]) -> Tensor:
    """transformers' own, on embeddings put together row by row."""
    rows = []
    for ids, sample in zip(batch.ids, samples, strict=True):
        embeds = own.llm_stage.embed_ids(ids.tolist())[0]
        at = iter((ids == own.collator.rows.image_id).nonzero()[:: own.encoder.num_patches, 0].tolist())
        for segment in sample.record.segments(own.llm_stage.template):
            if isinstance(segment, ImageSlot):
                picture = Image.open(io.BytesIO(sample.pictures[segment.index]))
                seen = own.encoder_stage(own.encoder_stage.preprocess([picture]))[0]
                start = next(at)
                embeds = torch.cat([embeds[:start], seen, embeds[start + len(seen) :]])
        rows.append(embeds)
        assert next(at, None) is None
    labels = batch.labels
    causal_lm: Any = own.llm_stage.llm.causal_lm
    loss: Tensor = causal_lm(inputs_embeds=torch.stack(rows), labels=labels, attention_mask=(batch.ids != 0)).loss
    return loss


def test_l_und_is_transformers_own(tuning_root: Path) -> None:
    own = made(tuning_root)
    for task in ("understand", "generate", "edit"):
        step = steps_of(own, task)[0]
        figures = own.backward(step)
        (batch,) = own._parts(step)
        with torch.no_grad():
            wanted = oracle_loss(own, batch, samples_of(own, step))
        torch.testing.assert_close(figures["understanding"], wanted, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_l_gen_is_the_denoising_loss_of_the_target_pictures(tuning_root: Path) -> None:
    own = made(tuning_root)
    step = steps_of(own, "edit")[0]
    (batch,) = own._parts(step)
    samples = samples_of(own, step)
    assert own.denoiser is not None
    decoder, head = own.denoiser.decoder, own.module.head
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    img_ids = torch.tensor(own.llm_stage.img_ids)
    losses = []
    told = own._tell(batch)
    for row, sample in enumerate(samples):
        if sample.record.task == "understand":
            continue
        (name,) = [name for name in batch.target_names if name.startswith(f"{row}/")]
        picture = Image.open(io.BytesIO(sample.pictures[-1])).convert("RGB")
        edge = min(picture.size)
        left, top = (picture.width - edge) / 2, (picture.height - edge) / 2
        square = picture.resize((16, 16), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge))
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 127.5 - 1
        number = batch.target_names.index(name)
        torch.testing.assert_close(batch.targets[number], pixels[0])
        noise, posterior, timestep, dropped = own.denoiser._draw(f"0/all/{step}/{name}", 0.0)
        assert not dropped
        latent = decoder.vae.encode(pixels).latent_dist
        latents = (latent.mean + latent.std * posterior) * decoder.vae.config.scaling_factor
        noisy = schedule.add_noise(latents, noise[None], torch.tensor([timestep]))
        mask = batch.ids[row] == img_ids[0]
        start = int(mask.nonzero()[-1])
        embeds = own.llm_stage.llm.embed(batch.ids[row : row + 1])
        features = own.encoder(own.encoder_stage.preprocess([Image.open(io.BytesIO(sample.pictures[0]))]))
        slots = (batch.ids[row : row + 1] == own.collator.rows.image_id)[..., None]
        seen = embeds.masked_scatter(slots, own.encoder_stage.projector(features)) if slots.any() else embeds
        hidden = own.llm_stage(seen)[:, start : start + len(img_ids)]
        conditioning = head(hidden, embeds[:, start : start + len(img_ids)])
        torch.testing.assert_close(told.conditioning[number], conditioning[0], rtol=1e-4, atol=1e-5)
        losses.append(mse_loss(decoder.unet(noisy, timestep, conditioning).sample, noise[None]))
    with torch.enable_grad():
        figures = own.backward(step)
    assert len(losses) == batch.num_targets > 1
    torch.testing.assert_close(figures["generation"], torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(figures["loss"], figures["understanding"] + 0.5 * figures["generation"])


def test_a_dropped_condition_is_the_null_one(tuning_root: Path) -> None:
    own = made(tuning_root, condition_dropout=0.999999)
    step = steps_of(own, "generate")[0]
    own.backward(step)
    heads = [p.grad for p in own.module.head.parameters()]
    assert all(grad is not None and not grad.any() for grad in heads)
    own.denoiser.null_conditioning += 5.0  # type: ignore[union-attr]
    changed = own.backward(step)["generation"]
    own.denoiser.null_conditioning -= 5.0  # type: ignore[union-attr]
    assert own.backward(step)["generation"] != changed


@dataclass(frozen=True)
class Precounted(Ranks):
    """One of several ranks, alone in its process: it knows already what the sum of counts will be."""

    counts: tuple[float, ...] = ()

    def sum(self, value: Tensor) -> Tensor:
        return torch.tensor(self.counts)


def gradients(own: TuningObjective, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    own.module.zero_grad()
    figures = own.backward(step)
    return figures, {key: p.grad.clone() for key, p in own.module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("stage", [{}, {"lora": LORA}, {"train": ["tokens", "head"]}])
def test_shares_of_two_ranks_add_up(tuning_root: Path, stage: dict[str, Any]) -> None:
    """Also where only one of them has a picture to look at or to draw; each pass with as many parameters."""
    alone = made(tuning_root, **stage)
    mixed = [s for s in range(12) if len({p.record.task for p in samples_of(alone, s)}) > 1]
    for step in (mixed[0], steps_of(alone, "generate")[0]):
        (whole,) = alone._parts(step)
        counts = (float(whole.num_labels), float(whole.num_targets))
        wanted, wanted_gradients = gradients(alone, step)
        parts = [
            gradients(made(tuning_root, Precounted(rank, 2, counts=counts), micro_batch_size=1, **stage), step)
            for rank in (0, 1)
        ]
        assert parts[0][1].keys() == parts[1][1].keys() == wanted_gradients.keys()
        for key, value in wanted.items():
            torch.testing.assert_close(parts[0][0][key] + parts[1][0][key], value, rtol=1e-4, atol=1e-5)
        for key, gradient in wanted_gradients.items():
            total = parts[0][1][key] + parts[1][1][key]
            torch.testing.assert_close(total, gradient, rtol=1e-3, atol=1e-5 * float(1 + gradient.abs().max()))


@pytest.mark.parametrize(
    "stage",
    [
        {},
        {"lora": LORA},
        {"train": ["projector"], "tasks": ["understand"]},
        {"train": ["head", "tokens"], "tasks": ["generate"]},
    ],
)
def test_it_learns_and_only_what_it_is_told_to(tuning_root: Path, tmp_path: Path, stage: dict[str, Any]) -> None:
    own = made(tuning_root, **stage)
    groups: list[Any] = own.parameter_groups()
    grouped = [p for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == sum(p.requires_grad for p in own.module.parameters())
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    first_steps = steps_of(own, own.stage.tasks[0], 1) * NUM_STEPS
    losses = []
    for step in first_steps:
        optimizer.zero_grad()
        losses.append(own.backward(step)["loss"].item())
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0] if "llm" in own.stage.train else losses[-1] < losses[0]
    own.module.eval()
    (batch,) = own._parts(first_steps[0])
    with torch.no_grad():
        told = own._tell(batch)
    own.write(tmp_path)
    check_written(tuning_root, tmp_path, set(own.stage.train))
    again = made(tuning_root, inputs={"before": tmp_path}, **{**stage, "train": ["llm"], "lora": None})
    with torch.no_grad():
        plain = again._tell(batch)
    torch.testing.assert_close(plain.loss, told.loss, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(plain.conditioning, told.conditioning, rtol=1e-3, atol=1e-3)


def check_written(root: Path, out: Path, train: set[str]) -> None:
    """Folders for what was trained; in tables of which only rows were, the others are what they were."""
    has_llm = bool(train & {"llm", "tokens"})
    assert {path.name for path in out.iterdir()} == (train - {"tokens"}) | ({"llm"} if has_llm else set())
    before = Assembly(root / "genllava").llm()
    if train & {"llm", "tokens"}:
        state = load_file(out / "llm" / "model.safetensors")
        known: dict[str, Tensor] = before.llm.causal_lm.state_dict()  # type: ignore[attr-defined]
        assert state.keys() == known.keys()
        if "tokens" in train:
            changed = {key for key, value in state.items() if not torch.equal(value, known[key])}
            assert changed == {"model.embed_tokens.weight", "lm_head.weight"}
            own = [before.codec.special_id(token) for token in ("[T2I]", "[I2T]", *before.template.image_tokens)]
            rows = {key: (state[key] != known[key]).any(1).nonzero()[:, 0].tolist() for key in changed}
            assert rows["lm_head.weight"] == sorted(own)
            assert set(rows["model.embed_tokens.weight"]) <= set(own)


@pytest.mark.parametrize("stage", [{}, {"lora": LORA}, {"train": ["tokens", "head"]}])
def test_a_llm_stored_in_bf16_is_only_made_larger_where_it_is_trained(
    tuning_root: Path, tmp_path: Path, stage: dict[str, Any]
) -> None:
    """And trains as the same weights stored in float32; exactly so, but for adapters, which peft begins in its type."""
    (tmp_path / "mix").symlink_to(tuning_root / "mix")
    losses: dict[torch.dtype, list[float]] = {}
    for dtype in (torch.bfloat16, torch.float32):
        before = tuning_root / "genllava" if dtype is torch.bfloat16 else tmp_path / "bfloat16"
        base = tmp_path / str(dtype).removeprefix("torch.")
        shutil.copytree(before, base)
        LlmStage.load(before / "llm").save(base / "llm", dtype)
        own = built(tmp_path, base=base.name, **stage)
        model = own._tuned.llm
        assert {p.dtype for key, p in model.named_parameters() if ".lora_" not in key} == {dtype}
        with joined(own.config.distribution) as ranks:
            own.ranks = ranks
            run = StageRun(own, tmp_path / f"run {base.name}", "d")
            losses[dtype] = [run.advance()["loss"].item() for _ in range(3)]
            assert {p.dtype for p in own.module.parameters() if p.requires_grad} == {torch.float32}
            assert {p.dtype for p in model.parameters() if not p.requires_grad} <= {dtype}
            with whole_weights(own.module, ranks):
                own.write(tmp_path / f"out {base.name}")
        trained = load_file(tmp_path / f"out {base.name}" / "llm" / "model.safetensors")
        assert {value.dtype for value in trained.values()} == {torch.float32}
    exactly = losses[torch.float32]
    assert losses[torch.bfloat16] == (pytest.approx(exactly, rel=1e-4) if "lora" in stage else exactly)
    assert len(set(exactly)) == len(exactly)


def test_a_model_that_only_understands(tuning_root: Path) -> None:
    own = made(tuning_root, base="llava", train=["projector", "llm"], tasks=["understand"])
    assert own.denoiser is None
    figures = own.backward(0)
    assert set(figures) == {"loss", "understanding"}
    assert own.module.projector.linear_1.weight.grad is not None
    with pytest.raises(InvalidArgument, match="has no decoder"):
        made(tuning_root, base="llava", train=["llm"])


def test_held_out_samples_are_judged_and_never_trained_on(tuning_root: Path) -> None:
    own = made(tuning_root)
    assert len(own.held_out) == 4
    assert not set(own.held_out) & set(own.trained_on)
    figures = own.evaluate()
    assert 0 <= figures["tokens_right"] <= 1
    assert figures == own.evaluate()
    assert figures["understanding"] > 1


def test_what_does_not_fit_is_refused(tuning_root: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"lora\.targets \['query'\]: the LLM's linear layers are \['down_proj'"):
        made(tuning_root, lora={**LORA, "targets": ["query"]})
    with pytest.raises(InvalidArgument, match="batch_size is 16, but .* samples are to be trained on"):
        made(tuning_root, batch_size=16, groups=["generation"])
    with pytest.raises(InvalidArgument, match=r"groups \['nothing'\]: the mix has \['editing', 'generation'"):
        made(tuning_root, groups=["nothing"])
    with pytest.raises(InvalidArgument, match="train has the head, but the data have no pictures to draw"):
        made(tuning_root, groups=["language"])
    with pytest.raises(InvalidArgument, match="gate, on 0 samples held out, names understanding, known are none"):
        made(tuning_root, Ranks(0, 16), batch_size=16, gate={"understanding": 1})
    with pytest.raises(InvalidArgument, match="batch_size 4 is no multiple of 3 processes"):
        made(tuning_root, Ranks(0, 3))


def test_a_damaged_mix_is_named(tuning_root: Path, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="holds no finished mix"):
        made(tuning_root, data=str(tmp_path))
