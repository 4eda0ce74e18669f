"""A graph in ONNX Runtime: numpy in, numpy out. No torch here, so that a service can do without it."""

from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as states

from triptych.errors import CheckpointError, FailedPrecondition

Provider = Literal["cpu", "cuda", "tensorrt"]
PROVIDERS: Final[dict[Provider, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
LOG_ERRORS: Final = 3
CANNOT_RUN: Final = (states.NotImplemented, states.RuntimeException, states.EPFail)
NO_GRAPH: Final = (states.InvalidArgument, states.InvalidProtobuf, states.InvalidGraph, states.NoSuchFile, states.Fail)


def choose_provider(device: str) -> Provider:
    """auto: cuda where ONNX Runtime has it. Raises FailedPrecondition when `device` is cuda and it has not."""
    has_cuda = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise FailedPrecondition(
            "device is cuda, but this ONNX Runtime has no CUDA provider: install triptych[encoder-gpu], or use cpu"
        )
    return "cuda" if has_cuda and device != "cpu" else "cpu"


def require_tensorrt() -> None:
    """Raises FailedPrecondition where ONNX Runtime has no TensorRT."""
    if PROVIDERS["tensorrt"] not in onnxruntime.get_available_providers():
        raise FailedPrecondition(
            "TensorRT needs an NVIDIA GPU, the TensorRT libraries and onnxruntime-gpu (triptych[encoder-gpu]): this "
            f"ONNX Runtime only has {', '.join(onnxruntime.get_available_providers())}"
        )


class OnnxModel:
    """One graph with one output. `num_threads` 0: as ONNX Runtime chooses."""

    def __init__(
        self, path: Path, provider: Provider = "cpu", num_threads: int = 0, options: dict[str, Any] | None = None
    ) -> None:
        """`options` are the provider's. Raises CheckpointError for a file that is no graph, and FailedPrecondition for
        a graph that the provider does not run."""
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = num_threads
        settings.log_severity_level = LOG_ERRORS
        wanted = PROVIDERS[provider]
        # TensorRT leaves what it has no kernel for to CUDA; nothing else may fall back without being told to.
        providers = [(wanted, options or {}), *([(PROVIDERS["cuda"], {})] if provider == "tensorrt" else [])]
        try:
            self._session = onnxruntime.InferenceSession(str(path), settings, providers=providers)
        except CANNOT_RUN as error:
            raise FailedPrecondition(f"ONNX Runtime's {wanted} does not run {path}: {_first_line(error)}") from error
        except NO_GRAPH as error:
            raise CheckpointError(f"{path} is no graph that can be run: {_first_line(error)}") from error
        if self._session.get_providers()[0] != wanted:
            raise FailedPrecondition(f"ONNX Runtime could not start {wanted}, see its log")
        self.inputs = tuple(argument.name for argument in self._session.get_inputs())

    def input_shape(self, name: str) -> tuple[int | str, ...]:
        """A free dimension is a name."""
        shapes = {argument.name: tuple(argument.shape) for argument in self._session.get_inputs()}
        return shapes[name]

    def __call__(self, *arrays: NDArray[Any]) -> NDArray[np.float32]:
        """The output for one array per input."""
        return self._session.run(None, dict(zip(self.inputs, arrays, strict=True)))[0]  # type: ignore[no-any-return]


def tensorrt_options(input: str, shape: tuple[int, ...], max_batch_size: int, cache: Path | None) -> dict[str, Any]:
    """For batches of 1 to `max_batch_size` of `shape` (C, H, W); engines are kept in `cache`.

    No trt_fp16_enable and the like: without them the provider builds a strongly typed network, in which every layer
    runs in the type the graph gives it. Under trt_fp16_enable, SigLIP's norms overflow without a word.
    """
    profiles = {"min": 1, "opt": max_batch_size, "max": max_batch_size}
    sizes = "x".join(map(str, shape))
    options: dict[str, Any] = {
        f"trt_profile_{end}_shapes": f"{input}:{count}x{sizes}" for end, count in profiles.items()
    }
    if cache is not None:
        options |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache)}
    return options


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
