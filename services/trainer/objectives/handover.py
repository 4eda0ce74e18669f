"""The UNet once more: it learns to draw from what the trained language model and head hand over."""

import random
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from services.trainer.config import DRAWING, HandoverStage, MultimodalStage, Recipe
from services.trainer.data.blocks.render import render
from services.trainer.objectives.base import Objective
from services.trainer.objectives.diffusion import denoising_target
from services.trainer.objectives.multimodal import MultimodalObjective
from triptych.errors import InvalidArgument
from triptych.models.decoder_stage import DecoderStage
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage
from triptych.models.processors import to_pixels

NUM_AT_ONCE = 32  # conversations


class TrainedMultimodal(MultimodalObjective):
    """The single stage as it ended: its conversations, its conditioning, its figures."""

    needs = ("multimodal",)

    @property
    def config(self) -> MultimodalStage:
        return self.recipe.multimodal

    def load_stages(self) -> tuple[EncoderStage, LlmStage]:
        folder = self.inputs["multimodal"]
        return EncoderStage.load(folder / "encoder"), LlmStage.load(folder / "llm", self.template)

    def load_decoder(self) -> DecoderStage:
        stage = DecoderStage.load(self.inputs["multimodal"] / "decoder")
        stage.decoder.unet.set_attn_processor(AttnProcessor())
        stage.decoder.unet.to(memory_format=torch.channels_last)
        return stage


class HandoverObjective(Objective):
    """Latent diffusion's loss on the conditioning that the frozen LLM and head give, as the UNet is served: until then
    it has only been told by its own text encoder. The paper has no such stage (docs/decisions).

    Never compiled, as the UNet's own stage is not.
    """

    name = "handover"
    needs = ("multimodal",)

    def __init__(self, recipe: Recipe, inputs: dict[str, Path]) -> None:
        super().__init__(recipe, inputs)
        self.whole = TrainedMultimodal(recipe, inputs)
        self.whole.trained.requires_grad_(False)
        self.stage = self.whole.decoder_stage.requires_grad_(False)
        self.stage.decoder.unet.requires_grad_(True)
        self.groups = [group for group in recipe.multimodal.groups if group.kind in DRAWING]
        if not self.groups:
            raise InvalidArgument(f"handover: multimodal.groups has none of {', '.join(DRAWING)}")
        self._pool: list[tuple[Tensor, Tensor]] = []

    @property
    def config(self) -> HandoverStage:
        return self.recipe.handover

    @property
    def module(self) -> nn.Module:
        return self.stage.decoder.unet  # type: ignore[no-any-return]

    def backward(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"handover/{self.recipe.seed}/{step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(31))
        pool = self.pool()
        chosen = [rng.choice(pool) for _ in range(self.config.batch_size)]
        null = self.stage.null_conditioning[0]
        dropped = [rng.random() < self.config.condition_dropout for _ in chosen]
        conditioning = torch.stack([null if drop else own for (own, _), drop in zip(chosen, dropped, strict=True)])
        latents = torch.stack([latent for _, latent in chosen])
        noise = torch.randn(latents.shape, generator=generator)
        scheduler = self.whole.noise_scheduler
        num_timesteps = scheduler.config.num_train_timesteps
        shares = torch.rand(len(chosen), generator=generator) ** self.config.timestep_power
        timesteps = (shares * num_timesteps).long().clamp(max=num_timesteps - 1)  # a share may round up to 1
        noisy = scheduler.add_noise(latents, noise, timesteps).to(memory_format=torch.channels_last)
        target = denoising_target(scheduler, latents, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            loss = mse_loss(self.stage.decoder(noisy, timesteps, conditioning).float(), target)
        loss.backward()
        return {"loss": loss}

    @torch.no_grad()
    def pool(self) -> list[tuple[Tensor, Tensor]]:
        """Conditioning (L, C) and latents of training pictures, each computed once: all that makes them is frozen."""
        rng = random.Random(f"handover/pool/{self.recipe.seed}")
        while len(self._pool) < self.config.pool_size:
            (group,) = rng.choices(self.groups, [group.batch_size for group in self.groups])
            batch = self.whole.batch(group.model_copy(update={"batch_size": NUM_AT_ONCE}), rng, "train")
            pixels = to_pixels(np.stack([render(scene, seed) for scene, seed in batch.targets]))
            with torch.autocast("cpu", torch.bfloat16):
                conditioning = self.whole.condition(batch).float()
                latents = self.stage.decoder.encode(pixels.to(memory_format=torch.channels_last)).float()
            self._pool += zip(conditioning.unbind(0), latents.unbind(0), strict=True)
        return self._pool

    def evaluate(self) -> dict[str, float]:
        """Held-out: blocks and whole scenes drawn right, and edits, as in the single stage."""
        return self.whole.drawings()

    def write(self, folder: Path) -> None:
        """All that the checkpoint is made of."""
        self.whole.write(folder)
