"""The model.py of a Triton Python backend: all requests of a batch through one run of the ONNX graph beside it.

`triptych.models.triton_repository` copies this file into model repositories, so it imports nothing of ours, and the
server's own module only where the server calls.
"""

from pathlib import Path
from typing import Any, Final

# Not TensorRT, which comes first where it is built in: it compiles anew for each size of batch, while requests wait.
PROVIDERS: Final = ("CUDAExecutionProvider", "CPUExecutionProvider")


class TritonPythonModel:
    """The name and the methods that the Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        import onnxruntime

        graph = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        available = onnxruntime.get_available_providers()
        providers = [provider for provider in PROVIDERS if provider in available]
        self._session = onnxruntime.InferenceSession(str(graph), providers=providers)
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request, in order."""
        import numpy as np
        import triton_python_backend_utils as triton

        arrays = [triton.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        results = self._session.run(None, {self._input: np.concatenate(arrays)})[0]
        ends = np.cumsum([len(array) for array in arrays])[:-1]
        parts = np.split(results, ends)
        return [triton.InferenceResponse([triton.Tensor(self._output, np.ascontiguousarray(part))]) for part in parts]
