"""The forward pass in ONNX Runtime, in this process, without torch."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.encoder.backends import check_dtype
from services.encoder.config import EncoderConfig
from triptych.card import Card
from triptych.errors import CheckpointError, FailedPrecondition
from triptych.exports import ENCODER_GRAPH, INPUT, export_name, read_export, verify_export
from triptych.models.embedder import Embedder
from triptych.models.onnx_model import OnnxModel, Provider, choose_provider, require_tensorrt, tensorrt_options
from triptych.models.processors import ImageProcessor


class OnnxEmbedder:
    """A graph of tower and projector, and the preprocessing before it."""

    def __init__(self, processor: ImageProcessor, graph: OnnxModel) -> None:
        self.processor = processor
        self._graph = graph

    def embed(self, pixel_values_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._graph(pixel_values_BCHW)


class OnnxruntimeBackend:
    """One of the card's exports in format onnx or tensorrt, on CPU or CUDA."""

    def __init__(self, config: EncoderConfig, card: Card) -> None:
        self._config = config
        self._card = card
        self._name = config.export or export_name("onnx", "f32")
        self._export = read_export(card, self._name, ("onnx", "tensorrt"))
        check_dtype(config, self._name, self._export)
        self._provider = self._choose_provider()

    def _choose_provider(self) -> Provider:
        if self._export.format != "tensorrt":
            return choose_provider(self._config.device)
        if self._config.device == "cpu":
            raise FailedPrecondition(f"device is cpu, but export {self._name!r} runs on cuda only: use cuda or auto")
        require_tensorrt()
        return "tensorrt"

    @property
    def device(self) -> str:
        return "cpu" if self._provider == "cpu" else "cuda:0"

    @property
    def dtype(self) -> str:
        return self._export.precision

    def load(self, folder: Path) -> Embedder:
        path = verify_export(folder, self._card, self._name) / ENCODER_GRAPH
        processor = ImageProcessor.load(folder / "vision")
        shape = (3, processor.size, processor.size)
        graph = OnnxModel(path, self._provider, self._config.num_threads, self._options(shape))
        if graph.input_shape(INPUT)[1:] != shape:
            raise CheckpointError(f"{path} takes {graph.input_shape(INPUT)[1:]}, preprocessing makes {shape}")
        return OnnxEmbedder(processor, graph)

    def _options(self, shape: tuple[int, ...]) -> dict[str, Any]:
        if self._provider != "tensorrt":
            return {}
        return tensorrt_options(INPUT, shape, self._config.max_batch_size, self._engine_cache())

    def _engine_cache(self) -> Path | None:
        """This export's own: ONNX Runtime tells engines apart by the graph's shape, not by its weights."""
        if self._config.engine_cache is None:
            return None
        cache = self._config.engine_cache / self._export.digest.removeprefix("sha256:")
        cache.mkdir(parents=True, exist_ok=True)
        return cache
