"""What ONNX Runtime cannot run here is said in our words."""

from pathlib import Path

import onnxruntime
import pytest

from triptych.errors import CheckpointError, FailedPrecondition
from triptych.models.onnx_model import OnnxModel, choose_provider, require_tensorrt, tensorrt_options

HAS_GPU = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.parametrize("content", [b"", b"no graph at all", None], ids=["empty", "garbage", "missing"])
def test_no_graph(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "graph.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"graph\.onnx is no graph that can be run"):
        OnnxModel(path)


@pytest.mark.skipif(HAS_GPU, reason="needs an ONNX Runtime without CUDA")
def test_providers_that_are_not_here() -> None:
    assert choose_provider("auto") == choose_provider("cpu") == "cpu"
    with pytest.raises(FailedPrecondition, match=r"no CUDA provider: install triptych\[encoder-gpu\]"):
        choose_provider("cuda")
    with pytest.raises(FailedPrecondition, match="TensorRT needs an NVIDIA GPU"):
        require_tensorrt()


def test_tensorrt_network_is_strongly_typed(tmp_path: Path) -> None:
    options = tensorrt_options("pixel_values", (3, 32, 32), 16, tmp_path)
    assert options["trt_profile_min_shapes"] == "pixel_values:1x3x32x32"
    assert options["trt_profile_max_shapes"] == "pixel_values:16x3x32x32"
    assert options["trt_engine_cache_path"] == str(tmp_path)
    assert not [name for name in options if name.endswith(("fp16_enable", "bf16_enable", "int8_enable"))]
