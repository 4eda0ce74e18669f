"""A model repository for a Triton server: config.pbtxt, and the graph as version 1."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from triptych.errors import InvalidArgument
from triptych.exports import DIGEST_PARAMETER, INPUT, MAX_BATCH_SIZE, OUTPUT, triton_model
from triptych.models import triton_model as python_model

BACKENDS: Final = ("onnxruntime", "python")
VERSION: Final = "1"
GRAPH: Final = "model.onnx"
MAX_QUEUE_DELAY_MS: Final = 60_000


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """How the server runs the graph. `python`: for a server without the ONNX Runtime backend, through a short model.py;
    its Python then needs the onnxruntime package. Requests wait up to `max_queue_delay_ms` to share a batch."""

    backend: str = "onnxruntime"
    max_batch_size: int = 16
    max_queue_delay_ms: float = 5.0

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise InvalidArgument(f"triton backend is {self.backend!r}, must be one of {', '.join(BACKENDS)}")
        if not 1 <= self.max_batch_size <= MAX_BATCH_SIZE:
            raise InvalidArgument(f"max_batch_size is {self.max_batch_size}, must be 1 to {MAX_BATCH_SIZE}")
        if not 0 <= self.max_queue_delay_ms <= MAX_QUEUE_DELAY_MS:  # nor NaN
            raise InvalidArgument(f"max_queue_delay_ms is {self.max_queue_delay_ms}, must be 0 to {MAX_QUEUE_DELAY_MS}")


def graph_path(repository: Path, digest: str) -> Path:
    """Where the repository has the graph of the component `digest`; makes the folders."""
    folder = repository / triton_model(digest) / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    return folder / GRAPH


def write_repository(
    repository: Path, config: TritonConfig, input: tuple[int, ...], output: tuple[int, ...], digest: str
) -> None:
    """Everything around the graph. Shapes are of one picture, `digest` is the component's."""
    text = config_text(config, input, output, digest)
    model = repository / triton_model(digest)
    (model / "config.pbtxt").write_text(text, encoding="utf-8")
    if config.backend == "python":
        shutil.copyfile(python_model.__file__, model / VERSION / "model.py")


def config_text(config: TritonConfig, input: tuple[int, ...], output: tuple[int, ...], digest: str) -> str:
    """config.pbtxt."""
    return f"""\
name: "{triton_model(digest)}"
backend: "{config.backend}"
max_batch_size: {config.max_batch_size}
input {{ name: "{INPUT}" data_type: TYPE_FP32 dims: {list(input)} }}
output {{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: {list(output)} }}
dynamic_batching {{ max_queue_delay_microseconds: {round(config.max_queue_delay_ms * 1000)} }}
parameters {{ key: "{DIGEST_PARAMETER}" value {{ string_value: "{digest}" }} }}
"""
