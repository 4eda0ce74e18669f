"""What diffusers' StableDiffusionPipeline sets right in old configs before it uses them."""

import re
from collections.abc import Mapping
from typing import Any, Final

EARLY: Final = re.compile(r"0\.[0-8](\.|$)")  # versions of diffusers under which sample_size was not filled in right
SAMPLE_SIZE: Final = 64  # of Stable Diffusion 1.x


def schedule_corrections(config: Mapping[str, Any]) -> dict[str, Any]:
    """For the config of a noise scheduler, its class's defaults included. Latents, unlike pixels, go beyond 1."""
    corrections: dict[str, Any] = {}
    if config.get("steps_offset", 1) != 1:
        corrections["steps_offset"] = 1
    if config.get("clip_sample"):
        corrections["clip_sample"] = False
    return corrections


def unet_corrections(config: Mapping[str, Any]) -> dict[str, Any]:
    """For a UNet's config.json."""
    size = config.get("sample_size")
    is_small = isinstance(size, int) and size < SAMPLE_SIZE
    is_early = EARLY.match(str(config.get("_diffusers_version"))) is not None
    return {"sample_size": SAMPLE_SIZE} if is_small and is_early else {}
