"""Weights are loaded in the dtype they run in: the same values as when rounded later, without the memory of a float32
copy.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import MistralConfig, SiglipVisionConfig

from tests import tiny
from triptych.models.decoder_stage import DecoderStage
from triptych.models.decoders.latent_diffusion import LatentDiffusion
from triptych.models.encoder_stage import EncoderStage
from triptych.models.encoders.siglip import SiglipEncoder
from triptych.models.llm_stage import LlmStage
from triptych.models.llms.mistral import MistralLlm
from triptych.models.placement import DTYPES, Placement
from triptych.models.projectors.mlp import MlpProjector

STAGES: dict[str, Any] = {"encoder": EncoderStage, "llm": LlmStage, "decoder": DecoderStage}
# The kernel's own count of the most that was in memory, mapped files included; reset before every load. The tiny stages
# pay for libraries and threads. Every weight is read once, or its page would not be there at all.
SCRIPT = """
import gc, json, sys
from pathlib import Path
import torch
from tests import tiny
from tests.triptych.models.test_placement import STAGES
from triptych.models.placement import DTYPES, Placement

def kibibytes(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])

def load(kind, folder, dtype):
    options = {"template": tiny.TEMPLATE} if kind == "llm" else {}
    stage = Placement("cpu", "bf16").place(STAGES[kind].load(folder / kind, dtype=dtype, **options))
    assert all(p.max() < 10 for p in stage.parameters())
    return sum(p.numel() * p.element_size() for p in stage.parameters())

def growth(kind, folder, dtype):
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = kibibytes("VmRSS")
    num_bytes = load(kind, folder, dtype)
    return (kibibytes("VmHWM") - before) * 1024 / num_bytes, num_bytes

torch.set_num_threads(1)
small, large = map(Path, sys.argv[1:])
found = {}
for kind in STAGES:
    load(kind, small, torch.bfloat16)
    found[kind] = growth(kind, large, torch.bfloat16)
found["rounded later"] = growth("llm", large, torch.float32)
print(json.dumps(found))
"""


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_as_when_rounded_later(stored: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint = tiny.write_tiny_checkpoint(tmp_path / "tiny", dtype=stored)
    for kind, stage in STAGES.items():
        for dtype in DTYPES:
            placement = Placement("cpu", dtype)
            direct = placement.place(stage.load(checkpoint / kind, dtype=DTYPES[dtype]))
            later = placement.place(stage.load(checkpoint / kind))
            for part in ("named_parameters", "named_buffers"):
                wanted, found = dict(getattr(later, part)()), dict(getattr(direct, part)())
                assert wanted.keys() == found.keys()
                for name, value in wanted.items():
                    assert value.dtype == found[name].dtype, (kind, dtype, name)
                    assert torch.equal(value, found[name]), (kind, dtype, name)
            assert {p.dtype for p in direct.parameters()} == {DTYPES[dtype]}
            assert not direct.training


def write_large(folder: Path) -> None:
    """Stages of 150 MB and more, in bf16; what the weights are does not matter, so nobody draws them."""
    small_llm, small_decoder = tiny.tiny_llm(), tiny.tiny_decoder()
    small: Any = small_decoder.decoder
    vision = SiglipVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=6, num_attention_heads=16, image_size=32
    )
    text = MistralConfig(vocab_size=4096, hidden_size=1024, intermediate_size=4096, num_hidden_layers=6)
    with torch.device("meta"):
        encoder = SiglipEncoder(vision)
        projector = MlpProjector(MlpProjector.Config(input_size=1024, hidden_size=tiny.HIDDEN_SIZE))
        llm = MistralLlm(text)
        unet = UNet2DConditionModel.from_config(small.unet.config, block_out_channels=(256, 640))
        vae = AutoencoderKL.from_config(small.vae.config, block_out_channels=(128, 256))
    for module in (encoder, projector, llm, unet, vae):
        module.to(torch.bfloat16).to_empty(device="cpu")
        for parameter in module.parameters():
            parameter.data.zero_()
    EncoderStage(encoder, projector, tiny.tiny_encoder().processor).save(folder / "encoder", torch.bfloat16)
    LlmStage(llm, small_llm.codec, small_llm.template).save(folder / "llm", torch.bfloat16)
    decoder = LatentDiffusion(unet, vae, small.noise_schedule)
    DecoderStage(small_decoder.head, decoder, small_decoder.null_conditioning).save(folder / "decoder", torch.bfloat16)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_copy_in_float32(tmp_path: Path) -> None:
    tiny.write_tiny_checkpoint(tmp_path / "small", dtype=torch.bfloat16)
    write_large(tmp_path / "large")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for kind in STAGES:
        times, num_bytes = found[kind]
        assert num_bytes > 120e6, found
        assert times < 1.3, found
    assert found["rounded later"][0] > 2, found  # the measure sees a copy
