"""Stable Diffusion's folders as diffusers writes them now and as they were published, and what is none."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.triptych.models.published import folders
from triptych.errors import CheckpointError
from triptych.models.published.diffusion import PublishedDiffusion

OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "diffusion"
    folders.write_diffusion(folder)
    return folder


@pytest.mark.parametrize("as_convolutions", [False, True])
def test_old_names_in_the_vae(published: Path, tmp_path: Path, as_convolutions: bool) -> None:
    folder = shutil.copytree(published, tmp_path / "old")
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    state, renamed = load_file(path), dict[str, torch.Tensor]()
    for key, value in state.items():
        name = next((key.replace(f".{new}.", f".{old}.") for new, old in OLD.items() if f".0.{new}." in key), key)
        is_matrix = name != key and value.dim() == 2
        renamed[name] = value[:, :, None, None].clone() if as_convolutions and is_matrix else value
    assert len(set(renamed) - set(state)) == 16
    path.unlink()
    torch.save(renamed, path.with_suffix(".bin"))
    found, wanted = PublishedDiffusion.open(folder), PublishedDiffusion.open(published)
    assert set(found.vae) == set(state)
    for key, tensor in found.vae.items():
        assert torch.equal(tensor.read(), wanted.vae[key].read())


def test_names_of_transformers_4_in_the_text_encoder(published: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published, tmp_path / "old")
    path = folder / "text_encoder" / "model.safetensors"
    bare = {key.removeprefix("text_model."): value for key, value in load_file(path).items()}
    positions = {"text_model.embeddings.position_ids": torch.arange(folders.TEXT_LENGTH)[None]}
    save_file({f"text_model.{key}": value for key, value in bare.items()} | positions, path)
    null = PublishedDiffusion.open(folder).null_conditioning
    save_file(bare, path)
    assert torch.equal(null, PublishedDiffusion.open(folder).null_conditioning)


BAD_CONFIGS: list[tuple[str, dict[str, object]]] = [
    ("text_encoder/config.json", {"hidden_act": "nonsense"}),
    ("text_encoder/config.json", {"layer_norm_eps": None}),
    ("scheduler/scheduler_config.json", {"beta_start": "x"}),
    ("scheduler/scheduler_config.json", {"prediction_type": "nonsense"}),
    ("scheduler/scheduler_config.json", {"timestep_spacing": None}),
    ("unet/config.json", {"block_out_channels": 16}),
    ("unet/config.json", {"sample_size": None}),
    ("unet/config.json", {"sample_size": 0}),
]


@pytest.mark.parametrize(("name", "changes"), BAD_CONFIGS, ids=str)
def test_what_cannot_be_used_is_named(published: Path, tmp_path: Path, name: str, changes: dict[str, object]) -> None:
    path = shutil.copytree(published, tmp_path / "bad") / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=f"{name}: "):
        PublishedDiffusion.open(tmp_path / "bad")


def test_a_tokenizer_that_cannot_fill_a_line_is_named(published: Path, tmp_path: Path) -> None:
    path = shutil.copytree(published, tmp_path / "bad") / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": None}))
    with pytest.raises(CheckpointError, match="bad/tokenizer: .*padding token"):
        PublishedDiffusion.open(tmp_path / "bad")


def test_a_vae_without_scaling_factor_has_stable_diffusion_s(published: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published, tmp_path / "old")
    path = folder / "vae" / "config.json"
    values = json.loads(path.read_text())
    del values["scaling_factor"]
    path.write_text(json.dumps(values))
    assert PublishedDiffusion.open(folder).decoder.vae.config.scaling_factor == 0.18215


BROKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "flow model": ("unet", {"_class_name": "SD3Transformer2DModel"}, "must be 'UNet2DConditionModel'"),
    "other widths": ("unet", {"cross_attention_dim": 24}, r"unet: of a wrong shape: .*attn2.to_k.weight is \(16, 16\)"),
    "another text encoder": ("text_encoder", {"model_type": "t5"}, "model_type is 't5', must be 'clip_text_model'"),
    "unknown block": ("vae", {"up_block_types": ["Nonsense", "Nonsense"]}, "vae/config.json: Nonsense"),
}


@pytest.mark.parametrize(("part", "changes", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_stable_diffusion_is_named(
    published: Path, tmp_path: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    folder = shutil.copytree(published, tmp_path / "broken")
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=message):
        PublishedDiffusion.open(folder)


def test_an_unknown_noise_scheduler_is_named(published: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published, tmp_path / "broken")
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "FlowMatchEulerDiscreteScheduler"}')
    with pytest.raises(CheckpointError, match=r"scheduler_config.json: noise scheduler 'FlowMatchEulerDiscreteSched"):
        PublishedDiffusion.open(folder)


@pytest.mark.parametrize(
    "name", ["tokenizer/vocab.json", "scheduler/scheduler_config.json", "text_encoder/config.json"]
)
def test_a_missing_file_is_named(published: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(published, tmp_path / "broken")
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        PublishedDiffusion.open(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_missing_tensor_is_named(published: Path, tmp_path: Path, part: str) -> None:
    folder = shutil.copytree(published, tmp_path / "broken")
    (path,) = (folder / part).glob("*.safetensors")
    state = load_file(path)
    lost = sorted(state)[0]
    del state[lost]
    save_file(state, path)
    with pytest.raises(CheckpointError, match=rf"{part}: missing: {lost.removeprefix('text_model.')}$"):
        PublishedDiffusion.open(folder)
