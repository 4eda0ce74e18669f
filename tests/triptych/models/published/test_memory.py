"""An import's memory is bounded by the files' tensors, not by the model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from tests.triptych.models.published import folders

NUM_SHARDS = 4
# Peak and present memory by the kernel's own count: mapped files included. The first import pays for libraries and
# threads; what is in memory when it is done is the baseline. Loading the result as services do is the comparison.
SCRIPT = """
import sys
from pathlib import Path
import torch
from triptych.models.llm_stage import LlmStage
from triptych.models.published.llava import import_llava

def kibibytes(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])

torch.set_num_threads(1)
small, large, out = map(Path, sys.argv[1:])
import_llava(small, out / "small")
LlmStage.load(out / "small" / "llm")
before = kibibytes("VmRSS")
import_llava(large, out / "large")
streamed = kibibytes("VmHWM")
LlmStage.load(out / "large" / "llm")
print((streamed - before) * 1024, (kibibytes("VmHWM") - before) * 1024)
"""


def write_large(folder: Path) -> int:
    """About 300 MB in four shards of equal size; returns the bytes of the largest."""
    num_tokens = folders.write_tokenizer(folder, "<image>", "<pad>")
    text = LlamaConfig(
        vocab_size=num_tokens, hidden_size=1024, intermediate_size=2752, num_hidden_layers=12, num_attention_heads=16
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**folders.SIZES, image_size=32, patch_size=16), text_config=text
    )
    config.save_pretrained(str(folder))
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in LlavaForConditionalGeneration(config).state_dict().items()}
    total = sum(shape.numel() for shape in shapes.values())
    weight_map, shards, seen = dict[str, str](), [dict[str, torch.Tensor]() for _ in range(NUM_SHARDS)], 0
    for key, shape in shapes.items():
        index = seen * NUM_SHARDS // total
        shards[index][key] = torch.empty(shape, dtype=torch.float16).normal_(std=0.02)
        weight_map[key] = f"model-{index}.safetensors"
        seen += shape.numel()
    for index, shard in enumerate(shards):
        save_file(shard, folder / f"model-{index}.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return max(path.stat().st_size for path in folder.glob("model-*.safetensors"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_import_takes_less_than_one_and_a_half_shards(tmp_path: Path) -> None:
    folders.write_llava(tmp_path / "small")
    largest = write_large(tmp_path / "large")
    (tmp_path / "large" / "preprocessor_config.json").write_bytes(
        (tmp_path / "small" / "preprocessor_config.json").read_bytes()
    )
    assert 64e6 < largest < 100e6
    (tmp_path / "out").mkdir()
    folders_ = [str(tmp_path / name) for name in ("small", "large", "out")]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *folders_], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    streamed, loaded = map(int, done.stdout.split()[-2:])
    figures = f"largest shard {largest / 1e6:.0f} MB, import {streamed / 1e6:.0f} MB, whole {loaded / 1e6:.0f} MB"
    assert streamed < 1.5 * largest, figures
    assert loaded > 4 * largest, figures  # the measure would have seen a whole model
