"""GenLLaVA's single stage: understanding, drawing and editing learned together, the UNet and the VAE frozen."""

import random
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn.functional import mse_loss
from transformers import CLIPTextModel

from services.trainer.config import Group, MultimodalStage, Recipe
from services.trainer.data.blocks.language import dense_caption
from services.trainer.data.blocks.reader import Verdict, judge
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import Scene
from services.trainer.objectives.diffusion import NOISE_SCHEDULE, caption_ids, denoising_target
from services.trainer.objectives.understanding import NUM_EVAL, Batch, UnderstandingObjective
from triptych.models.decoder_stage import DecoderStage, sample_pictures
from triptych.models.decoders.latent_diffusion import LatentDiffusion
from triptych.models.encoder_stage import EncoderStage
from triptych.models.heads.query_transformer import QueryTransformer
from triptych.models.llm_stage import LlmStage
from triptych.models.processors import to_pixels
from triptych.models.transformers_folder import read_diffusers, read_transformers

NUM_IMG_TOKENS = 16  # of a drawn picture, in evaluation's rows: more make them longer


class MultimodalObjective(UnderstandingObjective):
    """L = L_und + generation_weight * L_gen (GenLLaVA eq. 3).

    L_und: next-token loss over the labelled tokens of the step, [IMG] tokens included. L_gen: the frozen UNet's
    denoising loss on the target pictures, conditioned by the head on the hidden states of the [IMG] tokens. The paper
    has no other term; `align_weight` adds, over the first `align_steps` only and fading to nothing, GILL's regression
    of the head's output onto the decoder's own text conditioning (docs/decisions).
    """

    name = "multimodal"
    needs: tuple[str, ...] = ("tokenizer", "vae_decoder", "unet", "understanding")

    def __init__(self, recipe: Recipe, inputs: dict[str, Path]) -> None:
        torch.manual_seed(recipe.seed)
        self.inputs, self.recipe = inputs, recipe
        self.decoder_stage = self.load_decoder()
        super().__init__(recipe, inputs)
        self.noise_scheduler = self.decoder_stage.decoder.forward_process()
        self.trained["head"] = self.decoder_stage.head

    def load_stages(self) -> tuple[EncoderStage, LlmStage]:
        folder = self.inputs["understanding"]
        llm = LlmStage.load(folder / "llm", self.template)
        return EncoderStage.load(folder / "encoder"), llm.requires_grad_(True)

    def load_decoder(self) -> DecoderStage:
        """The pre-trained UNet and VAE with a fresh head."""
        unet = read_diffusers(UNet2DConditionModel, self.inputs["unet"] / "unet")
        unet.set_attn_processor(AttnProcessor())
        vae = read_diffusers(AutoencoderKL, self.inputs["vae_decoder"])
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

    def compile(self) -> None:
        super().compile()
        self.head = torch.compile(self.decoder_stage.head, dynamic=False)

    def uncompile(self) -> None:
        super().uncompile()
        self.head = self.decoder_stage.head

    @property
    def config(self) -> MultimodalStage:
        return self.recipe.multimodal

    def lr_scales(self) -> dict[str, float]:
        return {**super().lr_scales(), "head": self.config.head_lr_scale}

    def losses(self, batches: list[Batch], step: int, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
        hiddens = [self.hidden(batch) for batch in batches]
        und, figures = self.understanding(batches, hiddens)
        if not any(batch.targets for batch in batches):  # questions alone, by the recipe or by chance
            return und, {**figures, "understanding": und}
        conditioning, targets = self._conditioning(batches, hiddens, rng)
        loss, figures = und, {**figures, "understanding": und}
        if weight := self.generation_weight(step):
            figures["generation"] = self._denoising_loss(conditioning, targets, rng)
            loss = loss + weight * figures["generation"]
        if weight := self._align_weight(step):
            align = mse_loss(conditioning.float(), self._text_conditioning([scene for scene, _ in targets]))
            loss = loss + weight * align
            figures["align"] = align
        return loss, figures

    def generation_weight(self, step: int) -> float:
        """0: the UNet is not even run."""
        return self.config.generation_weight

    def _align_weight(self, step: int) -> float:
        left = 1 - step / self.config.align_steps if self.config.align_steps else 0.0
        return self.config.align_weight * max(0.0, left)

    def _conditioning(
        self, batches: list[Batch], hiddens: list[Tensor], rng: random.Random
    ) -> tuple[Tensor, list[tuple[Scene, int]]]:
        """The head's output for every draw and edit, and for as many pictures of mixed conversations as they have rows
        (a fixed number in all, for compiled code); and the targets that belong to it."""
        chosen: list[int] = []
        targets: list[tuple[Scene, int]] = []
        for group, batch in zip(self.config.groups, batches, strict=True):
            own = range(len(targets), len(targets) + len(batch.targets))
            targets += batch.targets
            if own:
                chosen += rng.choices(own, k=group.batch_size) if group.kind == "mixed" else own
        states = [self.img_states(b, h) for b, h in zip(batches, hiddens, strict=True) if b.targets]
        hidden = torch.cat([h for h, _ in states])[chosen]
        embeds = torch.cat([e for _, e in states])[chosen]
        return self.head(hidden, embeds), [targets[i] for i in chosen]

    def img_states(self, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states and embeddings of every drawn picture's [IMG] tokens, (M, K, D) each."""
        mask = torch.isin(batch.ids, torch.tensor(self.llm_stage.img_ids))
        shape = (len(batch.targets), len(self.llm_stage.img_ids), hidden.shape[-1])
        return hidden[mask].reshape(shape), self.llm_stage.llm.embed(batch.ids[mask]).reshape(shape)

    def _denoising_loss(self, conditioning: Tensor, targets: list[tuple[Scene, int]], rng: random.Random) -> Tensor:
        draws = self.config.noise_draws
        generator = torch.Generator().manual_seed(rng.getrandbits(31))
        pixels = to_pixels(np.stack([render(scene, seed) for scene, seed in targets]))
        with torch.no_grad():
            latents = self.decoder_stage.decoder.encode(pixels).float().repeat(draws, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator)
        num_timesteps = self.noise_scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, num_timesteps, (len(latents),), generator=generator)
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps).to(memory_format=torch.channels_last)
        predicted = self.decoder_stage.decoder(noisy, timesteps, conditioning.repeat(draws, 1, 1))
        return mse_loss(predicted.float(), denoising_target(self.noise_scheduler, latents, noise, timesteps))

    @cached_property
    def text(self) -> CLIPTextModel:
        """The UNet's own text encoder."""
        return read_transformers(CLIPTextModel, self.inputs["unet"] / "text").requires_grad_(False).eval()  # type: ignore[no-any-return]

    @torch.no_grad()
    def _text_conditioning(self, scenes: list[Scene]) -> Tensor:
        captions = [dense_caption(scene) for scene in scenes]
        ids = caption_ids(self.llm_stage.codec, captions, self.recipe.unet.conditioning_length)
        return self.text(input_ids=ids).last_hidden_state.float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Held-out: answers right; blocks and whole scenes drawn right; edits right."""
        return {**super().evaluate(), **self.drawings()}

    def condition(self, batch: Batch) -> Tensor:
        """The head's output for every picture that the batch draws, without compiled code."""
        return self.decoder_stage.head(*self.img_states(batch, self.hidden_plain(batch)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def drawings(self) -> dict[str, float]:
        """Held-out: blocks and whole scenes drawn right; edits right."""
        figures: dict[str, float] = {}
        extra = self.extra_patches + max(0, len(self.llm_stage.img_ids) - NUM_IMG_TOKENS)
        for kind in ("draw", "edit"):
            verdicts = self._drawn(Group(kind=kind, batch_size=NUM_EVAL, max_tokens=96 + extra))
            figures[f"{kind}_blocks_right"] = sum(v.num_right for v in verdicts) / sum(v.num_blocks for v in verdicts)
            figures[f"{kind}_exact"] = sum(v.exact for v in verdicts) / len(verdicts)
        return figures

    def _drawn(self, group: Group) -> list[Verdict]:
        batch = self.batch(group, random.Random(f"multimodal/evaluate/{group.kind}"), "held_out")
        conditioning = self.condition(batch)
        decoder, null = self.decoder_stage.decoder, self.decoder_stage.null_conditioning
        served = self.recipe.checkpoint
        how = (served.num_inference_steps, served.guidance_scale)
        pictures = sample_pictures(decoder, conditioning, null, list(range(NUM_EVAL)), *how)
        return [judge(picture, scene) for picture, (scene, _) in zip(pictures, batch.targets, strict=True)]

    def write(self, folder: Path) -> None:
        super().write(folder)
        self.decoder_stage.save(folder / "decoder")
