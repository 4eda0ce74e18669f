"""config.pbtxt is what Triton's own protobuf reads; the Python model answers each request with its own rows."""

import ast
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from triptych.errors import InvalidArgument
from triptych.models import triton_model
from triptych.models.triton_repository import TritonConfig, graph_path, write_repository

DIGEST = "sha256:0123456789abcdef"
MODEL = "encoder_0123456789ab"


def written(folder: Path, config: TritonConfig) -> Any:
    graph_path(folder, DIGEST).write_bytes(b"graph")
    write_repository(folder, config, (3, 32, 32), (4, 16), DIGEST)
    text = (folder / MODEL / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_config(tmp_path: Path) -> None:
    config = written(tmp_path, TritonConfig(max_batch_size=8, max_queue_delay_ms=2.5))
    assert (config.name, config.backend, config.max_batch_size) == (MODEL, "onnxruntime", 8)
    assert config.dynamic_batching.max_queue_delay_microseconds == 2500
    (pixel_values,), (embeddings,) = config.input, config.output
    assert (pixel_values.name, list(pixel_values.dims)) == ("pixel_values", [3, 32, 32])
    assert (embeddings.name, list(embeddings.dims)) == ("embeddings", [4, 16])
    assert pixel_values.data_type == embeddings.data_type == model_config_pb2.TYPE_FP32
    assert config.parameters["component_digest"].string_value == DIGEST
    assert sorted(path.name for path in (tmp_path / MODEL / "1").iterdir()) == ["model.onnx"]


def test_python_backend_brings_its_model(tmp_path: Path) -> None:
    assert written(tmp_path, TritonConfig(backend="python")).backend == "python"
    assert sorted(path.name for path in (tmp_path / MODEL / "1").iterdir()) == ["model.onnx", "model.py"]


def test_unknown_backend() -> None:
    with pytest.raises(InvalidArgument, match="triton backend is 'pytorch', must be one of onnxruntime, python"):
        TritonConfig(backend="pytorch")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch_size", 2**31),
        ("max_batch_size", 0),
        ("max_queue_delay_ms", -1.0),
        ("max_queue_delay_ms", math.nan),
        ("max_queue_delay_ms", math.inf),
    ],
)
def test_numbers_that_triton_does_not_take(name: str, value: float) -> None:
    values: dict[str, Any] = {name: value}
    with pytest.raises(InvalidArgument, match=f"{name} is {value}, must be "):
        TritonConfig(**values)


def test_the_model_imports_nothing_of_ours() -> None:
    tree = ast.parse(Path(triton_model.__file__).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert modules == {"pathlib", "typing", "onnxruntime", "numpy", "triton_python_backend_utils"}


def test_the_model_leaves_tensorrt_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a stand-in for the package as it is built for GPUs."""
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    opened: list[list[str]] = []

    def open_session(graph: str, providers: list[str]) -> Any:
        opened.append(providers)
        argument = SimpleNamespace(name=graph)
        return SimpleNamespace(get_inputs=lambda: [argument], get_outputs=lambda: [argument])

    module = SimpleNamespace(get_available_providers=lambda: names, InferenceSession=open_session)
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    model: Any = triton_model.TritonPythonModel()
    for available in (names, names[2:]):
        module.get_available_providers = lambda available=available: available
        model.initialize({"model_repository": str(tmp_path), "model_version": "1"})
    assert opened == [names[1:], names[2:]]


def test_each_request_gets_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for the server's module and the session; the real server runs it in test_triton_backend."""
    module = SimpleNamespace(
        get_input_tensor_by_name=lambda request, name: SimpleNamespace(as_numpy=lambda: request[name]),
        InferenceResponse=lambda tensors: tensors[0],
        Tensor=lambda name, array: (name, array),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)
    model: Any = triton_model.TritonPythonModel()
    model._input, model._output = "pixel_values", "embeddings"
    model._session = SimpleNamespace(run=lambda _, inputs: [inputs["pixel_values"] * 2])
    arrays = [np.full((count, 3), count, np.float32) for count in (1, 3, 2)]
    answers = model.execute([{"pixel_values": array} for array in arrays])
    assert [name for name, _ in answers] == ["embeddings"] * 3
    assert all(np.array_equal(found, 2 * array) for (_, found), array in zip(answers, arrays, strict=True))
