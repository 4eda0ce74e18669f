"""A stage folder that is damaged or names what we do not know is refused, with the file and the key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from triptych.errors import CheckpointError
from triptych.models.decoder_stage import DecoderStage
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage

STAGES: dict[str, tuple[Callable[[], Any], Any]] = {
    "encoder": (tiny.tiny_encoder, EncoderStage),
    "decoder": (tiny.tiny_decoder, DecoderStage),
}


def saved(kind: str, folder: Path) -> Any:
    build, stage = STAGES[kind]
    build().save(folder)
    return stage.load


@pytest.mark.parametrize(
    ("kind", "key"),
    [("encoder", "encoder"), ("encoder", "projector"), ("decoder", "head"), ("decoder", "decoder")],
)
@pytest.mark.parametrize("value", [None, "unheard_of", ["mlp"]], ids=["missing", "unknown", "no name"])
def test_classes_are_named(kind: str, key: str, value: object, tmp_path: Path) -> None:
    load = saved(kind, tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in values.items() if k != key} | ({key: value} if value else {})))
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{key}"):
        load(tmp_path)


@pytest.mark.parametrize("feature_layer", [None, 0, -5])
def test_feature_layers_are_checked(feature_layer: int | None, tmp_path: Path) -> None:
    load = saved("encoder", tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text()) | {"feature_layer": feature_layer}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    with pytest.raises(CheckpointError, match="feature_layer"):
        load(tmp_path)


def test_other_feature_layers_stay_what_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stage: Any = tiny.tiny_encoder()
    stage.encoder.feature_layer = -1
    stage.save(tmp_path)
    loaded = EncoderStage.load(tmp_path)
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = stage.encoder.vision(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(loaded.encoder(pixels), wanted, rtol=0, atol=1e-6)


def test_preprocessing_of_another_size(tmp_path: Path) -> None:
    load = saved("encoder", tmp_path)
    path = tmp_path / "vision" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": {"height": 48, "width": 48}}))
    with pytest.raises(CheckpointError, match="resizes to 48, the encoder takes 32"):
        load(tmp_path)


def test_null_conditioning(tmp_path: Path) -> None:
    load = saved("decoder", tmp_path)
    path = tmp_path / "head" / "null_conditioning.safetensors"
    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=f"{path}: no 'null_conditioning'"):
        load(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{path} is missing"):
        load(tmp_path)


def test_loaded_stages_are_frozen_and_in_evaluation_mode(tmp_path: Path) -> None:
    for kind in STAGES:
        stage = saved(kind, tmp_path / kind)(tmp_path / kind)
        assert not stage.training
        assert not any(p.requires_grad for p in stage.parameters())


@pytest.mark.parametrize("policy", ["allow", "force", "forbid"])
def test_banned_tokens(policy: Any) -> None:
    stage: LlmStage = tiny.tiny_llm()
    always = set(stage.codec.special_tokens.values()) - {stage.eos_id, stage.soi_id}
    assert set(stage.banned_ids(policy, 0)) == always | {stage.soi_id}
    assert set(stage.banned_ids(policy, 1)) == (always | {stage.soi_id} if policy == "forbid" else always)
    assert stage.image_ids == [stage.soi_id, *stage.img_ids, stage.codec.special_id("[EOI]")]
    assert len(stage.img_ids) == tiny.NUM_IMG_TOKENS


def test_rows_that_fill_up_the_tables_are_no_tokens() -> None:
    """As import makes them: of 64, or as published."""
    stage: Any = tiny.tiny_llm()
    num_tokens = len(stage.codec.tokenizer)
    stage.llm.causal_lm.resize_token_embeddings(num_tokens + 5, mean_resizing=False)
    filled = LlmStage(stage.llm, stage.codec, stage.template)
    rows = set(range(num_tokens, num_tokens + 5))
    assert set(filled.banned_ids("allow", 1)) == set(stage.banned_ids("allow", 1)) | rows
