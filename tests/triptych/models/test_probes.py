"""Each part has a probe that fails when that part alone is changed, and all bear bf16."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.tiny import write_tiny_checkpoint
from triptych.card import read_card
from triptych.errors import ProbeError
from triptych.models.decoder_stage import DecoderStage
from triptych.models.embedder import encoder_probe
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage
from triptych.models.placement import Placement
from triptych.models.probes import decoder_probe, llm_probe
from triptych.serving.probes import check_probes, read_probes

STAGES: dict[str, tuple[Any, Callable[..., Any]]] = {
    "encoder": (EncoderStage, encoder_probe),
    "llm": (LlmStage, llm_probe),
    "decoder": (DecoderStage, decoder_probe),
}
PARTS = [
    ("encoder", "encoder.vision.embeddings"),
    ("encoder", "encoder.vision.encoder.layers.1"),
    ("encoder", "projector.linear_1"),
    ("encoder", "projector.linear_2"),
    ("llm", "llm.causal_lm.model.embed_tokens"),
    ("llm", "llm.causal_lm.model.layers.0"),
    ("llm", "llm.causal_lm.model.layers.1.mlp"),
    ("llm", "llm.causal_lm.lm_head"),
    ("decoder", "head.fc"),
    ("decoder", "head.model"),
    ("decoder", "decoder.unet.mid_block"),
    ("decoder", "decoder.unet.conv_out"),
    ("decoder", "decoder.unet.time_embedding"),
    ("decoder", "decoder.vae.decoder"),
    ("decoder", "decoder.vae.post_quant_conv"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


def worst(checkpoint: Path, kind: str, stage: nn.Module) -> float:
    folder = checkpoint / kind
    return check_probes(read_card(folder), folder, partial(STAGES[kind][1], stage))


@pytest.mark.parametrize("kind", STAGES)
def test_reproduced(checkpoint: Path, kind: str) -> None:
    stage = STAGES[kind][0].load(checkpoint / kind)
    assert worst(checkpoint, kind, stage) > 0.999999
    assert worst(checkpoint, kind, Placement("cpu", "bf16").place(stage)) > 0.999


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_noise_in_one_part_is_seen(checkpoint: Path, kind: str, part: str) -> None:
    stage = STAGES[kind][0].load(checkpoint / kind)
    torch.manual_seed(0)
    for parameter in stage.get_submodule(part).parameters():
        parameter.data += 0.5 * (parameter.std() if parameter.numel() > 1 else 1) * torch.randn_like(parameter)
    with pytest.raises(ProbeError):
        worst(checkpoint, kind, stage)


def test_swapped_layers_are_seen(checkpoint: Path) -> None:
    stage = LlmStage.load(checkpoint / "llm")
    layers: Any = stage.get_submodule("llm.causal_lm.model.layers")
    first, second = layers[0].mlp, layers[1].mlp
    layers[0].mlp, layers[1].mlp = second, first
    with pytest.raises(ProbeError):
        worst(checkpoint, "llm", stage)


def test_null_conditioning_is_seen(checkpoint: Path) -> None:
    stage = DecoderStage.load(checkpoint / "decoder")
    stage.null_conditioning = stage.null_conditioning.flip(1)
    with pytest.raises(ProbeError, match="probe 'null'"):
        worst(checkpoint, "decoder", stage)


@pytest.mark.parametrize("kind", STAGES)
def test_small_and_many(checkpoint: Path, kind: str) -> None:
    path = checkpoint / kind / "probes.safetensors"
    assert path.stat().st_size < 300_000
    assert len(read_probes(path)) >= 4


def test_bf16_keeps_buffers_exact(checkpoint: Path) -> None:
    stage = Placement("cpu", "bf16").place(LlmStage.load(checkpoint / "llm"))
    assert {p.dtype for p in stage.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in stage.buffers() if b.is_floating_point()} == {torch.float32}
