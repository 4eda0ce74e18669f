"""Every row of the five tables keeps the contract of a component: a new row is tested by standing in `TINY`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig

from tests import tiny
from triptych.errors import CheckpointError
from triptych.models import DECODERS, ENCODERS, HEADS, LLMS, PROJECTORS
from triptych.models.base import Component, OwnFormat
from triptych.models.decoders.latent_diffusion import LatentDiffusion
from triptych.models.encoders.clip import ClipEncoder
from triptych.models.llms.llama import LlamaLlm
from triptych.registry import Registry

VOCAB_SIZE = len(tiny.tiny_codec().tokenizer)
TABLES: tuple[Registry, ...] = (ENCODERS, PROJECTORS, LLMS, HEADS, DECODERS)
ROWS = [pytest.param(table, name, id=name) for table in TABLES for name in table]
OWN = [pytest.param(t, name, id=name) for t in TABLES for name in t if issubclass(t.load(name), OwnFormat)]


@dataclass(frozen=True)
class Tiny:
    """How to build a component small, drive it, and what comes out.

    `idle`: prefixes of parameters that rightly take no part, and so get no gradient.
    """

    build: Callable[[], Any]
    run: Callable[[Any], dict[str, Tensor]]
    shapes: dict[str, tuple[int, ...]]
    weights: tuple[str, ...]
    idle: tuple[str, ...] = ()


def run_llm(llm: Any) -> dict[str, Tensor]:
    embeds = llm.embed(torch.arange(10).reshape(2, 5))
    hidden = llm(embeds)
    return {"embeds": embeds, "hidden": hidden, "logits": llm.logits(hidden)}


def run_decoder(decoder: LatentDiffusion) -> dict[str, Tensor]:
    pixels = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    latents = decoder.encode(pixels, torch.ones(2, *decoder.latent_shape))
    conditioning = torch.linspace(-1, 1, 2 * 6 * 16).reshape(2, 6, 16)
    noise = decoder(latents, torch.tensor([1, 500]), conditioning)
    return {"latents": latents, "noise": noise, "pictures": decoder.decode(noise)}


def tiny_clip_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )


def tiny_llama_config() -> LlamaConfig:
    return LlamaConfig(vocab_size=64, hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)


TINY = {
    "siglip_vision_model": Tiny(
        lambda: tiny.tiny_encoder().encoder,
        lambda encoder: {"features": encoder(torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32))},
        {"features": (2, 4, 16)},
        ("model.safetensors",),
        # The penultimate layer's features: neither the last block nor what follows it.
        idle=("vision.encoder.layers.2.", "vision.post_layernorm.", "vision.head."),
    ),
    "clip_vision_model": Tiny(
        lambda: ClipEncoder(tiny_clip_config()),
        lambda encoder: {"features": encoder(torch.linspace(-1, 1, 2 * 3 * 28 * 28).reshape(2, 3, 28, 28))},
        {"features": (2, 4, 16)},
        ("model.safetensors",),
        idle=("vision.encoder.layers.2.", "vision.post_layernorm."),
    ),
    "mlp": Tiny(
        lambda: tiny.tiny_encoder().projector,
        lambda projector: {"embeds": projector(torch.linspace(-1, 1, 2 * 4 * 16).reshape(2, 4, 16))},
        {"embeds": (2, 4, tiny.HIDDEN_SIZE)},
        ("model.safetensors",),
    ),
    "mistral": Tiny(
        lambda: tiny.tiny_llm().llm,
        run_llm,
        {"embeds": (2, 5, tiny.HIDDEN_SIZE), "hidden": (2, 5, tiny.HIDDEN_SIZE), "logits": (2, 5, VOCAB_SIZE)},
        ("model.safetensors",),
    ),
    "llama": Tiny(
        lambda: LlamaLlm(tiny_llama_config()),
        run_llm,
        {"embeds": (2, 5, 24), "hidden": (2, 5, 24), "logits": (2, 5, 64)},
        ("model.safetensors",),
    ),
    "query_transformer": Tiny(
        lambda: tiny.tiny_decoder().head,
        lambda head: {"conditioning": head(torch.linspace(-1, 1, 2 * 4 * 32).reshape(2, 4, 32), torch.ones(2, 4, 32))},
        {"conditioning": (2, 6, 16)},
        ("model.safetensors",),
    ),
    "latent_diffusion": Tiny(
        lambda: tiny.tiny_decoder().decoder,
        run_decoder,
        {"latents": (2, 4, 8, 8), "noise": (2, 4, 8, 8), "pictures": (2, 3, 16, 16)},
        ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"),
    ),
}


def build(table: Registry, name: str) -> Any:
    torch.manual_seed(0)
    component = TINY[name].build()
    assert isinstance(component, Component)
    assert type(component) is table.load(name)
    return component


def test_the_table_of_tiny_builders_is_whole() -> None:
    assert set(TINY) == {name for table in TABLES for name in table}


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_shapes(table: Registry, name: str) -> None:
    with torch.no_grad():
        outputs = TINY[name].run(build(table, name))
    assert {key: tuple(value.shape) for key, value in outputs.items()} == TINY[name].shapes
    assert all(value.isfinite().all() for value in outputs.values())


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_every_parameter_that_takes_part_gets_a_gradient(table: Registry, name: str) -> None:
    component = build(table, name)
    torch.manual_seed(1)
    for value in TINY[name].run(component).values():
        value.backward(torch.randn_like(value), retain_graph=True)
    without = {key for key, p in component.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {key for key, _ in component.named_parameters() if key.startswith(TINY[name].idle or "-")}


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_round_trip(table: Registry, name: str, tmp_path: Path) -> None:
    component = build(table, name)
    component.save(tmp_path / "f32")
    component.save(tmp_path / "bf16", torch.bfloat16)
    state = component.state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}  # saving left the module as it was
    exact, rounded = (table.load(name).load(tmp_path / folder) for folder in ("f32", "bf16"))
    assert set(exact.state_dict()) == set(rounded.state_dict()) == set(state)
    for key, value in state.items():
        assert torch.equal(exact.state_dict()[key], value), key
        assert torch.equal(rounded.state_dict()[key], value.bfloat16().float()), key
    component.eval()
    with torch.no_grad():
        wanted, found, near = (TINY[name].run(module.eval()) for module in (component, exact, rounded))
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0)
        assert (near[key] - value).norm() < 0.05 * value.norm(), key


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_what_is_loaded_is_saved_as_it_was(table: Registry, name: str, tmp_path: Path) -> None:
    """Byte for byte, so that digests agree: no file tells where its model once lay."""
    first, second = tmp_path / "first", tmp_path / "second"
    build(table, name).save(first)
    table.load(name).load(first).save(second)
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert [file for file in files if (first / file).read_bytes() != (second / file).read_bytes()] == []


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_broken_folders_are_named(table: Registry, name: str, tmp_path: Path) -> None:
    build(table, name).save(tmp_path)
    load = table.load(name).load
    for weights in TINY[name].weights:
        path = tmp_path / weights
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match=path.name) as cut_short:
            load(tmp_path)
        assert str(path.parent) in str(cut_short.value)
        path.unlink()
        with pytest.raises(CheckpointError, match=path.name) as missing:
            load(tmp_path)
        assert str(path.parent) in str(missing.value)
        path.write_bytes(whole)
    load(tmp_path)
    config = next(tmp_path.rglob("config.json"))
    config.unlink()
    with pytest.raises(CheckpointError, match=str(config)):
        load(tmp_path)
    config.write_text("{")
    with pytest.raises(CheckpointError, match=str(config)):
        load(tmp_path)


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_weights_that_do_not_fit_their_config(table: Registry, name: str, tmp_path: Path) -> None:
    build(table, name).save(tmp_path)
    path = tmp_path / TINY[name].weights[0]
    weights = load_file(path)
    # One that every component has, in another shape; then not at all; then one too many.
    key = next(key for key, value in weights.items() if value.ndim > 1)
    for changed in (
        weights | {key: weights[key][:-1].contiguous()},
        {other: value for other, value in weights.items() if other != key},
        weights | {"stranger.weight": torch.zeros(1)},
    ):
        save_file(changed, path, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=str(path.parent)):
            table.load(name).load(tmp_path)


@pytest.mark.parametrize(("table", "name"), OWN)
def test_unknown_and_missing_config_keys_are_named(table: Registry, name: str, tmp_path: Path) -> None:
    build(table, name).save(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    assert values["type"] == name
    path.write_text(json.dumps(values | {"depth_of_field": 3}))
    with pytest.raises(CheckpointError, match=r"config\.json.*depth_of_field"):
        table.load(name).load(tmp_path)
    path.write_text(json.dumps({key: value for key, value in values.items() if key != "input_size"}))
    with pytest.raises(CheckpointError, match=r"config\.json.*input_size"):
        table.load(name).load(tmp_path)
    path.write_text(json.dumps(values | {"type": "another"}))
    with pytest.raises(CheckpointError, match=r"config\.json.*type"):
        table.load(name).load(tmp_path)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.kind)
def test_unknown_names_are_refused(table: Registry) -> None:
    with pytest.raises(ValueError, match=f"unknown {table.kind} 'nothing', known: {min(table)}"):
        table.load("nothing")


@pytest.mark.parametrize("name", ENCODERS)
def test_penultimate_features_are_transformers_hidden_states(name: str) -> None:
    encoder = build(ENCODERS, name)
    size = encoder.image_size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = encoder.vision(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(encoder(pixels), wanted[:, -encoder.num_patches :], rtol=0, atol=1e-6)


@pytest.mark.parametrize("feature_layer", [0, 1, -5])
def test_feature_layers_out_of_range(feature_layer: int) -> None:
    encoder = build(ENCODERS, "siglip_vision_model")
    with pytest.raises(ValueError, match=f"feature_layer {feature_layer}: out of -4..-1"):
        type(encoder)(encoder.vision.config, feature_layer)


def test_unknown_noise_schedulers_are_refused() -> None:
    decoder = build(DECODERS, "latent_diffusion")
    with pytest.raises(ValueError, match="'LCMScheduler': known are"):
        LatentDiffusion(decoder.unet, decoder.vae, {"_class_name": "LCMScheduler"})
