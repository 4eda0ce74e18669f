"""Old configs give what StableDiffusionPipeline makes of them."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

from tests.triptych.models.published import folders
from triptych.models.decoder_stage import start_denoising, step_denoisings
from triptych.models.decoders.latent_diffusion import LatentDiffusion
from triptych.models.published.corrections import unet_corrections
from triptych.models.published.diffusion import PublishedDiffusion

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
OLD: dict[str, dict[str, Any]] = {
    "clips": {"_class_name": "DDIMScheduler", "set_alpha_to_one": False, "steps_offset": 1},
    "without an offset": {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
    "another class's offset": {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "diffusion"
    folders.write_diffusion(folder)
    return folder


@torch.no_grad()
@pytest.mark.parametrize("schedule", OLD.values(), ids=OLD)
def test_old_schedules_walk_as_in_the_pipeline(published: Path, tmp_path: Path, schedule: dict[str, Any]) -> None:
    folder = shutil.copytree(published, tmp_path / "old")
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule | BETAS))
    found = PublishedDiffusion.open(folder)
    unet = UNet2DConditionModel.from_pretrained(str(folder / "unet")).eval()
    vae = AutoencoderKL.from_pretrained(str(folder / "vae")).eval()
    decoder = LatentDiffusion(unet, vae, found.decoder.noise_schedule)
    conditioning = torch.randn(found.null_conditioning.shape, generator=torch.Generator().manual_seed(0))
    denoising = start_denoising(decoder, conditioning, found.null_conditioning, 5, 7, 7.5)
    noise = denoising.latents / denoising.noise_scheduler.init_noise_sigma
    while not denoising.is_finished:
        step_denoisings(decoder, [denoising])
    scheduler_class: Any = getattr(diffusers, schedule["_class_name"])
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=scheduler_class.from_pretrained(str(folder / "scheduler")),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    wanted = pipeline(
        prompt_embeds=conditioning,
        negative_prompt_embeds=found.null_conditioning,
        latents=noise,
        num_inference_steps=7,
        guidance_scale=7.5,
        output_type="latent",
    ).images
    torch.testing.assert_close(denoising.latents, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("version", "size", "corrected"),
    [("0.2.2", 32, 64), ("0.8.1", 32, 64), ("0.8.1", 96, 96), ("0.9.0", 32, 32), ("0.42.1", 8, 8), (None, 8, 8)],
)
def test_sizes_of_early_unets(version: str | None, size: int, corrected: int) -> None:
    config = {"_diffusers_version": version, "sample_size": size}
    assert (config | unet_corrections(config))["sample_size"] == corrected
