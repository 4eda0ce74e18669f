"""The UNet: denoising in the frozen VAE's latents, told by a text encoder trained along with it."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import CLIPTextConfig, CLIPTextModel

from services.trainer.config import Recipe, UnetStage
from services.trainer.data.blocks.language import dense_caption
from services.trainer.data.blocks.reader import judge
from services.trainer.data.blocks.world import sample_scene
from services.trainer.data.crowds import Crowd, crowd
from services.trainer.objectives.base import Objective
from triptych.models.decoder_stage import sample_pictures
from triptych.models.decoders.latent_diffusion import LatentDiffusion
from triptych.models.processors import to_pixels
from triptych.models.text import TextCodec

NUM_EVAL = 64
NOISE_SCHEDULE = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


class DiffusionObjective(Objective):
    """Latent diffusion's loss (Rombach et al. 2022, eq. 3): text encoder and UNet learn together, captions dropped at
    `condition_dropout` so that guidance has something to guide from.

    Never compiled: the trainer's check found the compiled UNet's gradients to be others than the plain ones."""

    name = "unet"
    needs = ("tokenizer", "vae")

    def __init__(self, recipe: Recipe, inputs: dict[str, Path]) -> None:
        super().__init__(recipe, inputs)
        config = recipe.unet
        self.codec = TextCodec.load(inputs["tokenizer"])
        vae = AutoencoderKL.from_pretrained(str(inputs["vae"])).requires_grad_(False).eval()
        torch.manual_seed(recipe.seed)
        unet = UNet2DConditionModel(**unet_config(config, vae))
        unet.set_attn_processor(AttnProcessor())  # CPU flash attention is slow backwards
        self.decoder = LatentDiffusion(unet.to(memory_format=torch.channels_last), vae, NOISE_SCHEDULE)
        self.text = CLIPTextModel(text_config(config, len(self.codec.tokenizer)))
        self.text.set_attn_implementation("eager")
        self.trained = nn.ModuleDict({"unet": unet, "text": self.text})
        self.noise_scheduler = self.decoder.forward_process()
        self._pool: list[tuple[str, Tensor]] = []

    @property
    def config(self) -> UnetStage:
        return self.recipe.unet

    @property
    def module(self) -> nn.Module:
        return self.trained

    def backward(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"unet/{self.recipe.seed}/{step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(31))
        chosen = [rng.choice(self.pool()) for _ in range(self.config.batch_size)]
        dropped = [rng.random() < self.config.condition_dropout for _ in chosen]
        ids = self.text_ids(["" if drop else text for (text, _), drop in zip(chosen, dropped, strict=True)])
        latents = torch.stack([latent for _, latent in chosen])
        noise = torch.randn(latents.shape, generator=generator)
        shares = torch.rand(len(chosen), generator=generator) ** self.config.timestep_power
        num_timesteps = self.noise_scheduler.config.num_train_timesteps
        timesteps = (shares * num_timesteps).long().clamp(max=num_timesteps - 1)  # a share may round up to 1
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            target = denoising_target(self.noise_scheduler, latents, noise, timesteps)
            loss = self._loss(ids, noisy.to(memory_format=torch.channels_last), timesteps, target)
        loss.backward()
        return {"loss": loss}

    def _loss(self, ids: Tensor, noisy: Tensor, timesteps: Tensor, target: Tensor) -> Tensor:
        conditioning = self.text(input_ids=ids).last_hidden_state
        return mse_loss(self.decoder(noisy, timesteps, conditioning).float(), target)

    @torch.no_grad()
    def pool(self) -> list[tuple[str, Tensor]]:
        """Dense captions and latents of training pictures, encoded once: the VAE is frozen."""
        if not self._pool:
            rng = random.Random(f"unet/pool/{self.recipe.seed}")
            while len(self._pool) < self.config.pool_size:
                part = [self._picture(rng) for _ in range(min(256, self.config.pool_size - len(self._pool)))]
                pixels = to_pixels(np.stack([picture.picture for picture in part]))
                with torch.autocast("cpu", torch.bfloat16):
                    latents = self.decoder.encode(pixels.to(memory_format=torch.channels_last)).float()
                self._pool += zip([picture.caption for picture in part], latents.unbind(0), strict=True)
        return self._pool

    def _picture(self, rng: random.Random) -> Crowd:
        """A plain scene, or one filled further by lot: a crowded picture ties many words to their cells at once."""
        crowded = rng.random() < self.config.crowded_share
        return crowd(rng, "train", rng.random() * self.config.filled_cells if crowded else 0.0)

    def text_ids(self, captions: list[str]) -> Tensor:
        """(B, conditioning_length)."""
        return caption_ids(self.codec, captions, self.config.conditioning_length)

    def null_conditioning(self) -> Tensor:
        """What the text encoder says of the empty caption, (1, L, C): guidance's other end, in or out of training."""
        return self.text(input_ids=self.text_ids([""])).last_hidden_state  # type: ignore[no-any-return]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Blocks drawn right and whole scenes right, from held-out captions."""
        rng = random.Random("unet/evaluate")
        scenes = [sample_scene(rng, "held_out") for _ in range(NUM_EVAL)]
        ids = self.text_ids([dense_caption(scene) for scene in scenes])
        conditioning = self.text(input_ids=ids).last_hidden_state
        served, seeds = self.recipe.checkpoint, list(range(NUM_EVAL))
        how = (served.num_inference_steps, served.guidance_scale)
        pictures = sample_pictures(self.decoder, conditioning, self.null_conditioning(), seeds, *how)
        verdicts = [judge(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)]
        return {
            "blocks_right": sum(v.num_right for v in verdicts) / sum(v.num_blocks for v in verdicts),
            "scenes_right": sum(v.exact for v in verdicts) / NUM_EVAL,
        }

    @torch.no_grad()
    def write(self, folder: Path) -> None:
        """unet/ and scheduler/ for the decoder; text/ and the null conditioning for whoever trains a head on it."""
        self.decoder.save(folder)
        self.text.save_pretrained(str(folder / "text"))
        np.save(folder / "null_conditioning.npy", self.null_conditioning().float().numpy())


def denoising_target(noise_scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the UNet must say: the noise (Stable Diffusion 1.x), or the velocity (2.x).

    Velocity, with a schedule that ends in pure noise, is what makes a small UNet listen to captions early: at the noisy
    end it must tell the whole picture from the caption, where noise prediction hardly counts that.
    """
    if noise_scheduler.config.prediction_type == "epsilon":
        return noise
    return noise_scheduler.get_velocity(latents, noise, timesteps)  # type: ignore[no-any-return]


def caption_ids(codec: TextCodec, captions: list[str], length: int) -> Tensor:
    """BOS, text, then EOS to the end, (B, length); longer captions are cut, as CLIP's are."""
    bos, eos = codec.tokenizer.bos_token_id, codec.tokenizer.eos_token_id
    ids = torch.full((len(captions), length), eos)
    for index, text in enumerate(captions):
        tokens = [bos, *(codec.encode(" " + text) if text else [])][: length - 1]
        ids[index, : len(tokens)] = torch.tensor(tokens)
    return ids


def unet_config(config: UnetStage, vae: AutoencoderKL) -> dict[str, object]:
    """diffusers' config of the recipe's UNet."""
    levels = len(config.block_out_channels)
    return {
        "sample_size": vae.config.sample_size // 2 ** (len(vae.config.block_out_channels) - 1),
        "in_channels": vae.config.latent_channels,
        "out_channels": vae.config.latent_channels,
        "down_block_types": ("CrossAttnDownBlock2D",) * levels,
        "up_block_types": ("CrossAttnUpBlock2D",) * levels,
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "cross_attention_dim": config.conditioning_size,
        "attention_head_dim": config.num_heads,  # diffusers' name; in this family it counts heads
        "norm_num_groups": 16,
    }


def text_config(config: UnetStage, vocab_size: int) -> CLIPTextConfig:
    """The transformers config of the text encoder."""
    return CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=config.conditioning_size,
        intermediate_size=4 * config.conditioning_size,
        num_hidden_layers=config.text_layers,
        num_attention_heads=4,
        max_position_embeddings=config.conditioning_length,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
