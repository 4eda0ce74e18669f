"""GenLLaVA's single stage: understanding, drawing and editing learned together, the UNet and the VAE frozen."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import CLIPTextModel, SiglipVisionModel

from services.trainer.config import Group, MultimodalStage, Recipe
from services.trainer.data.blocks.language import canonical_caption
from services.trainer.data.blocks.reader import Verdict, judge
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import Scene, Split
from services.trainer.data.samples import Sample, make_sample
from services.trainer.data.tokens import IGNORE, PAD, RowMaker, pad_rows
from services.trainer.objectives.base import Objective
from services.trainer.objectives.diffusion import NOISE_SCHEDULE, caption_ids
from triptych.models.decoder_stage import DecoderStage, sample_pictures
from triptych.models.decoders.latent_diffusion import LatentDiffusion
from triptych.models.encoder_stage import EncoderStage
from triptych.models.encoders.siglip import SiglipEncoder
from triptych.models.heads.query_transformer import QueryTransformer
from triptych.models.llm_stage import LlmStage
from triptych.models.llms.mistral import MistralLlm
from triptych.models.processors import ImageProcessor, to_pixels
from triptych.models.projectors.mlp import MlpProjector
from triptych.models.text import TextCodec
from triptych.prompts import PromptTemplate

NUM_EVAL = 64


@dataclass(frozen=True)
class Batch:
    """Rows of one group. `slots` and `images` are masks over `ids`: patch positions, and positions of drawn [IMG]s."""

    ids: Tensor  # (B, T)
    labels: Tensor  # (B, T)
    seen: list[Image.Image]  # the pictures that stand in slots, row by row
    targets: list[tuple[Scene, int]]  # scene and render seed of every drawn picture, row by row


class MultimodalObjective(Objective):
    """L = L_und + generation_weight * L_gen (GenLLaVA eq. 3).

    L_und: next-token loss over all labelled tokens of the step, [IMG] tokens included. L_gen: the frozen UNet's noise
    prediction loss on the target pictures, conditioned by the head on the hidden states of the [IMG] tokens. The paper
    has no other term; `align_weight` adds, over the first `align_steps` only and fading to nothing, GILL's regression of
    the head's output onto the decoder's own text conditioning (docs/decisions).
    """

    name = "multimodal"
    needs = ("tokenizer", "vae", "encoder", "llm", "unet")

    def __init__(self, recipe: Recipe, inputs: dict[str, Path]) -> None:
        super().__init__(recipe, inputs)
        self.template = PromptTemplate(**recipe.template.model_dump())
        torch.manual_seed(recipe.seed)
        self.encoder_stage = self._encoder_stage()
        self.llm_stage = self._llm_stage()
        self.decoder_stage = self._decoder_stage()
        self.text = CLIPTextModel.from_pretrained(str(inputs["unet"] / "text")).requires_grad_(False).eval()
        self.rows = RowMaker(self.llm_stage.codec, self.encoder_stage.encoder.num_patches)
        self.pad_id = self.llm_stage.codec.special_id(PAD)
        self.noise_scheduler = self.decoder_stage.decoder.noise_scheduler()
        trained = {"projector": self.encoder_stage.projector, "llm": self.llm_stage.llm, "head": self.decoder_stage.head}
        if recipe.multimodal.train_encoder:
            trained["encoder"] = self.encoder_stage.encoder.requires_grad_(True)
        self.trained = nn.ModuleDict(trained)
        self._compile()

    def _compile(self) -> None:
        parts = (self.encoder_stage, self.llm_stage, self.decoder_stage.head, self.decoder_stage.decoder)
        if self.recipe.compile:
            self.see, self.think, self.head, self.denoise = (torch.compile(part, dynamic=False) for part in parts)
        else:
            self.see, self.think, self.head, self.denoise = parts

    @property
    def config(self) -> MultimodalStage:
        return self.recipe.multimodal

    @property
    def module(self) -> nn.Module:
        return self.trained

    def parameter_groups(self) -> list[dict[str, object]]:
        scales = {"head": self.config.head_lr_scale, "projector": self.config.head_lr_scale}
        return [
            {"params": [p for p in part.parameters() if p.requires_grad], "lr_scale": scales.get(name, 1.0)}
            for name, part in self.trained.items()
        ]

    def _encoder_stage(self) -> EncoderStage:
        vision = SiglipVisionModel.from_pretrained(str(self.inputs["encoder"]))
        vision.set_attn_implementation("eager")
        encoder = SiglipEncoder(vision.config)
        encoder.vision = vision
        encoder.requires_grad_(False).eval()
        config = MlpProjector.Config(input_size=encoder.embed_dim, hidden_size=self.recipe.llm.hidden_size)
        return EncoderStage(encoder, MlpProjector(config), ImageProcessor(size=self.recipe.encoder.image_size))

    def _llm_stage(self) -> LlmStage:
        llm = MistralLlm.load(self.inputs["llm"])
        llm.causal_lm.set_attn_implementation("eager")
        return LlmStage(llm, TextCodec.load(self.inputs["tokenizer"]), self.template)

    def _decoder_stage(self) -> DecoderStage:
        unet = UNet2DConditionModel.from_pretrained(str(self.inputs["unet"] / "unet"))
        unet.set_attn_processor(AttnProcessor())
        vae = AutoencoderKL.from_pretrained(str(self.inputs["vae"]))
        decoder = LatentDiffusion(unet.to(memory_format=torch.channels_last), vae, NOISE_SCHEDULE)
        null = torch.from_numpy(np.load(self.inputs["unet"] / "null_conditioning.npy"))
        config, size = self.recipe.multimodal, self.recipe.llm.hidden_size
        head = QueryTransformer(
            QueryTransformer.Config(
                input_size=size,
                output_size=null.shape[2],
                num_queries=null.shape[1],
                hidden_size=config.head_hidden_size,
                num_heads=config.head_heads,
                num_layers=config.head_layers,
                intermediate_size=config.head_intermediate_size,
            )
        )
        return DecoderStage(head, decoder.requires_grad_(False).eval(), null)

    def batch(self, group: Group, rng: random.Random, split: Split) -> Batch:
        """Conversations of one kind that fit the row; a longer one is drawn again."""
        samples: list[Sample] = []
        rows = []
        while len(rows) < group.batch_size:
            sample = make_sample(group.kind, rng, split, group.num_turns, self.config.auto_task_share)
            row = self.rows.row(sample.segments(self.template))
            if len(row.ids) <= group.max_tokens:
                samples.append(sample)
                rows.append(row)
        ids, labels = pad_rows(rows, group.max_tokens, self.pad_id)
        seen: list[Image.Image] = []
        targets: list[tuple[Scene, int]] = []
        for sample in samples:
            pictures = sample.pictures()
            seen += [Image.fromarray(pictures[i]) for i in sample.shown(self.template)]
            targets += [(sample.scenes[i], sample.seed) for i in sample.drawn]
        return Batch(ids, labels, seen, targets)

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states (B, T, D) of a batch, pictures in their slots."""
        embeds = self.llm_stage.llm.embed(batch.ids)
        if batch.seen:
            pixels = self.encoder_stage.preprocess(batch.seen)
            slots = batch.ids == self.rows.image_id
            embeds = embeds.masked_scatter(slots[..., None], self._look(pixels).to(embeds.dtype))
        return self.think(embeds)  # type: ignore[no-any-return]

    def _look(self, pixels: Tensor) -> Tensor:
        """Embeddings, in calls of one size so that compiled code is reused."""
        size = 24
        short = -len(pixels) % size
        padded = torch.cat([pixels, pixels[:1].expand(short, -1, -1, -1)])
        return torch.cat([self.see(part) for part in padded.split(size)])[: len(pixels)]

    def img_states(self, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states and embeddings of every drawn picture's [IMG] tokens, (M, K, D) each."""
        mask = torch.isin(batch.ids, torch.tensor(self.llm_stage.img_ids))
        shape = (len(batch.targets), len(self.llm_stage.img_ids), hidden.shape[-1])
        embeds = self.llm_stage.llm.embed(batch.ids[mask]).reshape(shape)
        return hidden[mask].reshape(shape), embeds

    def backward(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"multimodal/{self.recipe.seed}/{step}")
        batches = [self.batch(group, rng, "train") for group in self.config.groups]
        with torch.autocast("cpu", torch.bfloat16):
            hiddens = [self.hidden(batch) for batch in batches]
            und, shares = self._understanding(batches, hiddens)
            gen, align = self._generation(batches, hiddens, rng, step)
        loss = und + self.config.generation_weight * gen + self._align_weight(step) * align
        loss.backward()
        return {"loss": loss, "understanding": und, "generation": gen, "align": align, **shares}

    def _align_weight(self, step: int) -> float:
        left = 1 - step / self.config.align_steps if self.config.align_steps else 0.0
        return self.config.align_weight * max(0.0, left)

    def _understanding(self, batches: list[Batch], hiddens: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the step's labelled tokens, and each group's own mean."""
        losses = {
            group.kind: self._token_losses(batch, hidden)[0]
            for group, batch, hidden in zip(self.config.groups, batches, hiddens, strict=True)
        }
        means = {f"understanding_{kind}": values.mean() for kind, values in losses.items()}
        return torch.cat(list(losses.values())).mean(), means

    def _token_losses(self, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of each labelled token, whether it was the most likely one, and the row it stands in."""
        targets = batch.labels[:, 1:]
        mask = targets != IGNORE
        logits = self.llm_stage.logits(hidden[:, :-1][mask])
        losses = cross_entropy(logits, targets[mask], reduction="none")
        return losses, logits.argmax(-1) == targets[mask], mask.nonzero()[:, 0]

    def _generation(
        self, batches: list[Batch], hiddens: list[Tensor], rng: random.Random, step: int
    ) -> tuple[Tensor, Tensor]:
        """L_gen and the alignment loss over a fixed number of the step's drawn pictures."""
        states = [self.img_states(b, h) for b, h in zip(batches, hiddens, strict=True) if b.targets]
        targets = [target for batch in batches for target in batch.targets]
        chosen = self._choose(batches, rng)
        hidden = torch.cat([h for h, _ in states])[chosen]
        embeds = torch.cat([e for _, e in states])[chosen]
        conditioning = self.head(hidden, embeds)
        scenes = [targets[i] for i in chosen]
        align = conditioning.new_zeros(())
        if self._align_weight(step):
            align = mse_loss(conditioning.float(), self._text_conditioning([scene for scene, _ in scenes]))
        if not self.config.generation_weight:
            return conditioning.new_zeros(()), align
        return self._denoising_loss(conditioning, scenes, rng), align

    def _choose(self, batches: list[Batch], rng: random.Random) -> list[int]:
        """Every draw and edit, and of the mixed conversations as many pictures as there are rows: a fixed number."""
        chosen: list[int] = []
        start = 0
        for group, batch in zip(self.config.groups, batches, strict=True):
            own = list(range(start, start + len(batch.targets)))
            start += len(own)
            if own:
                chosen += own if group.kind in ("draw", "edit") else rng.choices(own, k=group.batch_size)
        return chosen

    def _denoising_loss(self, conditioning: Tensor, scenes: list[tuple[Scene, int]], rng: random.Random) -> Tensor:
        draws = self.config.noise_draws
        generator = torch.Generator().manual_seed(rng.getrandbits(31))
        with torch.no_grad():
            latents = self.decoder_stage.decoder.encode(self._pixels(scenes)).float().repeat(draws, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(0, self.noise_scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps).to(memory_format=torch.channels_last)
        return mse_loss(self.denoise(noisy, timesteps, conditioning.repeat(draws, 1, 1)).float(), noise)

    def _pixels(self, scenes: list[tuple[Scene, int]]) -> Tensor:
        return to_pixels(np.stack([render(scene, seed) for scene, seed in scenes])).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def _text_conditioning(self, scenes: list[Scene]) -> Tensor:
        captions = [canonical_caption(scene) for scene in scenes]
        ids = caption_ids(self.llm_stage.codec, captions, self.recipe.unet.conditioning_length)
        return self.text(input_ids=ids).last_hidden_state.float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Held-out: answers whose every token is the most likely one; blocks and scenes drawn right; edits right."""
        ask = Group(kind="ask", batch_size=2 * NUM_EVAL, max_tokens=80)
        batch = self.batch(ask, random.Random("multimodal/evaluate/ask"), "held_out")
        _, right, row = self._token_losses(batch, self.hidden_eager(batch))
        wrong_rows = row[~right].unique()
        figures = {"answers_right": 1 - len(wrong_rows) / ask.batch_size}
        for kind in ("draw", "edit"):
            verdicts = self._drawn(kind)
            figures[f"{kind}_blocks_right"] = sum(v.num_right for v in verdicts) / sum(v.num_blocks for v in verdicts)
            figures[f"{kind}_exact"] = sum(v.exact for v in verdicts) / len(verdicts)
        return figures

    def hidden_eager(self, batch: Batch) -> Tensor:
        """`hidden` without compiled code: evaluation shapes are seen too seldom to compile for."""
        see, think, self.see, self.think = self.see, self.think, self.encoder_stage, self.llm_stage
        try:
            return self.hidden(batch)
        finally:
            self.see, self.think = see, think

    def _drawn(self, kind: str) -> list[Verdict]:
        group = Group(kind=kind, batch_size=NUM_EVAL, max_tokens=96)  # type: ignore[arg-type]
        batch = self.batch(group, random.Random(f"multimodal/evaluate/{kind}"), "held_out")
        conditioning = self.decoder_stage.head(*self.img_states(batch, self.hidden_eager(batch)))
        decoder, null = self.decoder_stage.decoder, self.decoder_stage.null_conditioning
        pictures = sample_pictures(decoder, conditioning, null, list(range(NUM_EVAL)), 20, 3.0)
        return [judge(picture, scene) for picture, (scene, _) in zip(pictures, batch.targets, strict=True)]

    def write(self, folder: Path) -> None:
        """The three stages, as the services load them but for their cards, which publishing writes."""
        self.encoder_stage.save(folder / "encoder")
        self.llm_stage.save(folder / "llm")
        self.decoder_stage.save(folder / "decoder")
