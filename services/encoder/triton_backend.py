"""The forward pass in a Triton server, over its gRPC endpoint; preprocessing stays here. No torch."""

from pathlib import Path

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from services.encoder.backends import check_dtype
from services.encoder.config import EncoderConfig
from triptych.card import Card
from triptych.errors import DeadlineExceeded, FailedPrecondition, TriptychError, Unavailable
from triptych.exports import DIGEST_PARAMETER, INPUT, OUTPUT, TRITON_MODEL, export_name, read_export
from triptych.models.embedder import Embedder
from triptych.models.processors import ImageProcessor


class TritonEmbedder:
    """One model of a Triton server, and the preprocessing before it."""

    def __init__(self, processor: ImageProcessor, address: str, timeout_s: float) -> None:
        self.processor = processor
        self._address = address
        self._timeout_s = timeout_s
        self._client = InferenceServerClient(address)

    def check(self, card: Card, max_batch_size: int) -> None:
        """Raises FailedPrecondition when the server's model is another component's or takes smaller batches, and
        Unavailable when the server does not answer or has not loaded it."""
        try:
            config = self._client.get_model_config(TRITON_MODEL, client_timeout=self._timeout_s).config
        except InferenceServerException as error:
            raise self._translated(error) from error
        found = config.parameters[DIGEST_PARAMETER].string_value
        if found != card.digest:
            raise FailedPrecondition(
                f"Triton at {self._address} serves {found or 'a component without a digest'}, {card.label} is "
                f"{card.digest}"
            )
        if config.max_batch_size < max_batch_size:
            raise FailedPrecondition(
                f"max_batch_size is {max_batch_size}, Triton at {self._address} takes at most {config.max_batch_size}"
            )

    def embed(self, pixel_values_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raises Unavailable when the server is away, DeadlineExceeded when it takes too long."""
        pixel_values = InferInput(INPUT, list(pixel_values_BCHW.shape), "FP32")
        pixel_values.set_data_from_numpy(pixel_values_BCHW)
        try:
            result = self._client.infer(
                TRITON_MODEL, [pixel_values], outputs=[InferRequestedOutput(OUTPUT)], client_timeout=self._timeout_s
            )
        except InferenceServerException as error:
            raise self._translated(error) from error
        embeddings: NDArray[np.float32] = result.as_numpy(OUTPUT)
        return embeddings

    def _translated(self, error: InferenceServerException) -> TriptychError:
        """Its status is a text: "StatusCode.UNAVAILABLE"."""
        message = f"Triton at {self._address}: {error.message()}"
        if error.status() == str(grpc.StatusCode.DEADLINE_EXCEEDED):
            return DeadlineExceeded(f"{message} (after {self._timeout_s:g} s)", stage="encoder")
        return Unavailable(message, stage="encoder")


class TritonBackend:
    """One of the card's exports in format triton, served from a copy of its model repository."""

    def __init__(self, config: EncoderConfig, card: Card) -> None:
        self._config = config
        self._card = card
        name = config.export or export_name("triton", "f32")
        self._export = read_export(card, name, ("triton",))
        check_dtype(config, name, self._export)

    @property
    def device(self) -> str:
        return self._config.triton_address

    @property
    def dtype(self) -> str:
        return self._export.precision

    def load(self, folder: Path) -> Embedder:
        processor = ImageProcessor.load(folder / "vision")
        embedder = TritonEmbedder(processor, self._config.triton_address, self._config.triton_timeout_s)
        embedder.check(self._card, self._config.max_batch_size)
        return embedder
