"""A published Stable Diffusion of the 1.x kind, in the folders of diffusers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from triptych.errors import CheckpointError
from triptych.models.base import GenerationHead
from triptych.models.decoder_stage import DecoderStage
from triptych.models.decoders.latent_diffusion import LatentDiffusion
from triptych.models.json_file import read_json
from triptych.models.published.config import naming, parse_config
from triptych.models.published.corrections import schedule_corrections, unet_corrections
from triptych.models.published.keys import PLAIN, TEXT_ENCODER, VAE, Spelling, match
from triptych.models.published.shards import write_shards
from triptych.models.published.stored import StoredTensor, read_stored
from triptych.models.published.streamed import build_empty, stream

M = TypeVar("M", bound=nn.Module)

STEM: Final = "diffusion_pytorch_model"
NUM_TRIAL_STEPS: Final = 4


@dataclass(frozen=True)
class PublishedDiffusion:
    """An empty decoder and the tensors that belong in it; `null_conditioning` is the text encoder's answer to an empty
    text, (1, L, C), which guidance starts from (models trained with dropped captions know it best)."""

    decoder: LatentDiffusion
    unet: Mapping[str, StoredTensor]
    vae: Mapping[str, StoredTensor]
    null_conditioning: Tensor

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads configs and headers, and runs the text encoder once. Raises CheckpointError naming what is wrong."""
        unet, unet_tensors = _open(UNet2DConditionModel, folder / "unet", PLAIN)
        vae, vae_tensors = _open(AutoencoderKL, folder / "vae", VAE)
        schedule = folder / "scheduler" / "scheduler_config.json"
        with naming(schedule):
            decoder = LatentDiffusion(unet, vae, read_json(schedule)).eval()
            decoder.noise_schedule |= schedule_corrections(decoder.noise_scheduler().config)
            _walk(decoder)
        null = _null_conditioning(folder)
        _check_fit(folder, unet.config, vae.config, null.shape[-1])
        return cls(decoder, unet_tensors, vae_tensors, null)

    def write(self, folder: Path, head: GenerationHead) -> DecoderStage:
        """Writes a component folder but for card and probes; returns the stage, which reads it as needed."""
        parts = {"unet": (self.decoder.unet, self.unet), "vae": (self.decoder.vae, self.vae)}
        for name, (module, tensors) in parts.items():
            module.save_config(str(folder / name))
            write_shards(folder / name, STEM, tensors)
            stream(module, read_stored(folder / name, (STEM,)))
        self.decoder.save_schedule(folder)
        stage = DecoderStage(head, self.decoder, self.null_conditioning).eval().requires_grad_(False)
        stage.save_around_decoder(folder)
        return stage


def _open(model_class: type[M], folder: Path, spelling: Spelling) -> tuple[M, dict[str, StoredTensor]]:
    path = folder / "config.json"
    values = read_json(path)
    values.pop("_name_or_path", None)
    if values.get("_class_name") != model_class.__name__:
        raise CheckpointError(f"{path}: _class_name is {values.get('_class_name')!r}, must be {model_class.__name__!r}")
    if model_class is UNet2DConditionModel:
        values |= unet_corrections(values)
    config_class: Any = model_class
    with naming(path):
        module: M = build_empty(lambda: config_class.from_config(values))
    return module, match(read_stored(folder, (STEM,)), module, spelling, folder)


def _null_conditioning(folder: Path) -> Tensor:
    path = folder / "text_encoder" / "config.json"
    values = read_json(path)
    if values.get("model_type") != CLIPTextConfig.model_type:
        raise CheckpointError(f"{path}: model_type is {values.get('model_type')!r}, must be 'clip_text_model'")
    config = parse_config(CLIPTextModel, values, path)
    with naming(path):
        encoder = build_empty(lambda: CLIPTextModel(config))
    tensors = read_stored(path.parent, ("model", "pytorch_model"))
    stream(encoder, match(tensors, encoder, TEXT_ENCODER, path.parent))
    for name in ("vocab.json", "merges.txt"):
        if not (folder / "tokenizer" / name).is_file():
            raise CheckpointError(f"{folder / 'tokenizer' / name} is missing")
    with naming(folder / "tokenizer"):
        tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
        text = tokenizer("", padding="max_length", max_length=config.max_position_embeddings, return_tensors="pt")
    with naming(path), torch.no_grad():
        return encoder(text.input_ids).last_hidden_state  # type: ignore[no-any-return]


def _walk(decoder: LatentDiffusion) -> None:
    """A picture's schedule without its UNet: schedulers only say in their steps what they cannot use."""
    scheduler = decoder.denoising_schedule(NUM_TRIAL_STEPS)
    latents = torch.zeros(1, 1, 1, 1)
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(scaled, timestep, latents, return_dict=False)[0]


def _check_fit(folder: Path, unet: Any, vae: Any, text_width: int) -> None:
    if unet.cross_attention_dim != text_width:
        raise CheckpointError(
            f"{folder}: the UNet attends to width {unet.cross_attention_dim}, the text encoder's is {text_width}"
        )
    if not isinstance(size := unet.sample_size, int) or size < 1:
        raise CheckpointError(f"{folder / 'unet' / 'config.json'}: sample_size is {size!r}, must be at least 1")
    if not unet.in_channels == unet.out_channels == vae.latent_channels:
        raise CheckpointError(
            f"{folder}: the UNet takes {unet.in_channels} channels and gives {unet.out_channels}, "
            f"the VAE's latents have {vae.latent_channels}"
        )
