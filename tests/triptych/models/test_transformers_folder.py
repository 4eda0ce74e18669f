"""Folders in the formats of transformers and diffusers, also as others wrote them: shards, old names, extra tensors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import MistralForCausalLM, SiglipVisionModel

from tests import tiny
from triptych.errors import CheckpointError
from triptych.models.transformers_folder import read_diffusers, read_transformers, write_transformers

# Attention in the VAE's middle, before diffusers renamed it; Stable Diffusion 1.4 was published so.
LEGACY = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def seeded_llm() -> MistralForCausalLM:
    torch.manual_seed(0)
    return tiny.tiny_llm().llm.causal_lm  # type: ignore[return-value]


def test_shards(tmp_path: Path) -> None:
    model = seeded_llm()
    model.save_pretrained(str(tmp_path), max_shard_size="40KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    loaded = read_transformers(MistralForCausalLM, tmp_path)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    whole = shards[-1].read_bytes()
    shards[-1].write_bytes(whole[:-8])
    with pytest.raises(CheckpointError, match=str(shards[-1])):
        read_transformers(MistralForCausalLM, tmp_path)
    shards[-1].unlink()
    with pytest.raises(CheckpointError, match=f"{shards[-1]} is missing"):
        read_transformers(MistralForCausalLM, tmp_path)


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    model = seeded_llm()
    write_transformers(model, tmp_path, torch.float16)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in read_transformers(MistralForCausalLM, tmp_path).parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_as_it_is_stored(tmp_path: Path, dtype: torch.dtype) -> None:
    write_transformers(seeded_llm(), tmp_path, dtype)
    loaded = read_transformers(MistralForCausalLM, tmp_path, None)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.bfloat16)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    mixed = {p.dtype for p in read_transformers(MistralForCausalLM, tmp_path, None).parameters()}
    assert mixed == {dtype if dtype is torch.bfloat16 else torch.float32}


def test_extra_buffers_of_older_versions_are_tolerated(tmp_path: Path) -> None:
    write_transformers(seeded_llm(), tmp_path, torch.float32)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    read_transformers(MistralForCausalLM, tmp_path)


def test_siglip_with_the_prefix_of_older_versions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vision: Any = tiny.tiny_encoder().encoder.vision
    write_transformers(vision, tmp_path, torch.float32)
    weights = {f"vision_model.{key}": value for key, value in vision.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = read_transformers(SiglipVisionModel, tmp_path).state_dict()
    assert all(torch.equal(loaded[key.removeprefix("vision_model.")], value) for key, value in weights.items())


def test_old_names_in_the_vae(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae: Any = tiny.tiny_decoder().decoder.vae
    write_transformers(vae, tmp_path, torch.float32)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    renamed = {
        key.replace(f".0.{new}.", f".0.{old}."): weights[key]
        for new, old in LEGACY.items()
        for key in weights
        if f"attentions.0.{new}." in key
    }
    assert len(renamed) == 16
    renamed |= {key: value for key, value in weights.items() if not any(f"attentions.0.{n}." in key for n in LEGACY)}
    save_file(renamed, path)
    loaded = read_diffusers(AutoencoderKL, tmp_path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in vae.state_dict().items())


def test_a_vae_without_scaling_factor_has_stable_diffusion_s(tmp_path: Path) -> None:
    write_transformers(tiny.tiny_decoder().decoder.vae, tmp_path, torch.float32)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    del values["scaling_factor"]
    path.write_text(json.dumps(values))
    assert read_diffusers(AutoencoderKL, tmp_path).config.scaling_factor == 0.18215
