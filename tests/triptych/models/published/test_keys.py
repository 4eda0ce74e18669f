"""Every name of the published files finds its place at full size, none is left over; what does not fit is named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from tests.triptych.models.published import listings
from tests.triptych.models.published.listings import Listing, prefixed
from triptych.errors import CheckpointError
from triptych.models.projectors.mlp import MlpProjector
from triptych.models.published.keys import LLAVA, PLAIN, TEXT_ENCODER, VAE, VISION, Spelling, match
from triptych.models.published.llm import empty_llm
from triptych.models.published.stored import StoredTensor
from triptych.models.published.streamed import build_empty
from triptych.models.published.vision import empty_tower

HERE = Path("config.json")
# Published configs leave out what was the library's default at the time.
SIGLIP_L = {
    "hidden_size": 1024,
    "image_size": 384,
    "intermediate_size": 4096,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
}
SIGLIP_SO400M = {
    "hidden_size": 1152,
    "image_size": 384,
    "intermediate_size": 4304,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
}
CLIP_L = {
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
}
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
VICUNA = {"max_position_embeddings": 4096, "model_type": "llama", "rms_norm_eps": 1e-05, "vocab_size": 32064}
UNET: dict[str, Any] = {
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
VAE_CONFIG: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
OTHER_TOWER = {
    "text_model.head.weight": (1, 1),
    "logit_scale": (1,),
    "logit_bias": (1,),
    "text_projection.weight": (1,),
}
POSITIONS = "embeddings.position_ids"


def stored(listing: Listing) -> dict[str, StoredTensor]:
    return {name: StoredTensor(torch.float16, shape, lambda: torch.empty(0)) for name, shape in listing.items()}


def check(listing: Listing, module: nn.Module, spelling: Spelling, num_tensors: int) -> None:
    """All of the listing but the ignored, once each, and in a place of its own shape."""
    found = match(stored(listing), module, spelling, "here")
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tuple(value.shape) for name, value in module.state_dict().items()
    }
    assert len(found) == num_tensors == len({spelling.ours(name) for name in listing} - {None})
    assert all(value.is_meta for value in module.parameters())


SIGLIP_SIZES = {"L/16": (SIGLIP_L, 1024, 4096, 24, 16, 576), "so400m/14": (SIGLIP_SO400M, 1152, 4304, 27, 14, 729)}


@pytest.mark.parametrize("prefix", ["vision_model.", ""])
@pytest.mark.parametrize("size", SIGLIP_SIZES.values(), ids=SIGLIP_SIZES)
def test_siglip(size: tuple[Any, ...], prefix: str) -> None:
    config, width, mlp, number, patch, num_positions = size
    tower = empty_tower(config, HERE)
    assert (tower.embed_dim, tower.num_patches, tower.image_size) == (width, num_positions, 384)
    names = prefixed(prefix, listings.siglip_tower(width, mlp, number, patch, num_positions))
    check({**names, **(OTHER_TOWER if prefix else {})}, tower.vision, VISION, 16 * number + 16)


def test_clip() -> None:
    names = prefixed("vision_model.", {**listings.clip_tower(), POSITIONS: (1, 577)})
    check(
        {**names, **OTHER_TOWER, "visual_projection.weight": (768, 1024)}, empty_tower(CLIP_L, HERE).vision, VISION, 391
    )


def test_mistral() -> None:
    check(listings.causal_lm(32000, 14336, 1024), empty_llm(MISTRAL, HERE).causal_lm, PLAIN, 291)


LLAVA_SPELLINGS = {
    "transformers 4, published": ("vision_tower.vision_model.", "multi_modal_projector.", "language_model.", ""),
    "transformers 5, written": ("vision_tower.", "multi_modal_projector.", "language_model.", ""),
    "transformers 5, in memory": ("model.vision_tower.", "model.multi_modal_projector.", "", "model.language_model."),
    "in between": ("model.vision_tower.vision_model.", "model.multi_modal_projector.", "", "model.language_model."),
}


@pytest.mark.parametrize("spelling", LLAVA_SPELLINGS.values(), ids=LLAVA_SPELLINGS)
def test_llava(spelling: tuple[str, str, str, str]) -> None:
    vision, projector, llm, inner = spelling
    llm_names = listings.causal_lm(32064, 11008, 4096)
    if inner:
        llm_names = {name.replace("model.", inner, 1): shape for name, shape in llm_names.items()}
    names = {
        **prefixed(vision, listings.clip_tower()),
        **prefixed(projector, listings.llava_projector()),
        **prefixed(llm, llm_names),
    }
    parts = {
        "vision": empty_tower(CLIP_L, HERE).vision,
        "projector": build_empty(lambda: MlpProjector(MlpProjector.Config(input_size=1024, hidden_size=4096))),
        "llm": empty_llm(VICUNA, HERE).causal_lm,
    }
    check(names, nn.ModuleDict(parts), LLAVA, 686)


def test_unet() -> None:
    check(listings.unet(), build_empty(lambda: UNet2DConditionModel.from_config(UNET)), PLAIN, 686)


@pytest.mark.parametrize("is_old", [True, False])
def test_vae(is_old: bool) -> None:
    check(listings.vae(is_old=is_old), build_empty(lambda: AutoencoderKL.from_config(VAE_CONFIG)), VAE, 248)


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_text_encoder(prefix: str) -> None:
    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=49408
    )
    names = prefixed(prefix, {**listings.text_encoder(), POSITIONS: (1, 77)})
    check(names, build_empty(lambda: CLIPTextModel(config)), TEXT_ENCODER, 196)


SMALL = {"weight": (3, 2), "bias": (3,)}


def test_attention_kept_as_1x1_convolutions() -> None:
    values = torch.arange(6.0).reshape(3, 2, 1, 1)
    kept = {**stored(SMALL), "weight": StoredTensor(torch.float32, (3, 2, 1, 1), lambda: values)}
    found = match(kept, nn.Linear(2, 3), PLAIN, "here")
    assert torch.equal(found["weight"].read(), values.reshape(3, 2))


BROKEN: dict[str, tuple[Listing, str]] = {
    "missing": ({"weight": (3, 2)}, "here: missing: bias$"),
    "unexpected": ({**SMALL, "gate": (1,)}, "here: unexpected: gate$"),
    "shape": ({**SMALL, "bias": (4,)}, r"here: of a wrong shape: bias is \(4,\), must be \(3,\)$"),
    "both": ({"weight": (3, 2), "gate": (1,)}, "here: missing: bias; unexpected: gate$"),
    "many": (
        {**SMALL, **{f"gate{k}": (1,) for k in range(20)}},
        "unexpected: gate0, gate1, gate2, gate3, gate4, gate5, gate6, gate7 and 12 more$",
    ),
}


@pytest.mark.parametrize(("listing", "message"), BROKEN.values(), ids=BROKEN)
def test_what_does_not_fit_is_named(listing: Listing, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        match(stored(listing), nn.Linear(2, 3), PLAIN, "here")


def test_two_spellings_at_once_are_refused() -> None:
    both = Spelling(((r"^old\.", ""),))
    with pytest.raises(CheckpointError, match="here: there twice: old.bias and bias$"):
        match(stored({"weight": (3, 2), "old.bias": (3,), "bias": (3,)}), nn.Linear(2, 3), both, "here")


def test_integers_are_no_weights() -> None:
    kept = {**stored(SMALL), "bias": StoredTensor(torch.int64, (3,), lambda: torch.empty(0))}
    with pytest.raises(CheckpointError, match="here: not stored as F64, F32, F16, BF16: bias$"):
        match(kept, nn.Linear(2, 3), PLAIN, "here")
