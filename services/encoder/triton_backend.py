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
from triptych.exports import DIGEST_PARAMETER, INPUT, OUTPUT, export_name, read_export, triton_model
from triptych.models.embedder import Embedder
from triptych.models.processors import ImageProcessor


class TritonEmbedder:
    """A component's model on a Triton server, and the preprocessing before it."""

    def __init__(self, processor: ImageProcessor, digest: str, address: str, timeout_s: float) -> None:
        """`digest` is the component's: its model is asked for by a name that no other component's has."""
        self.processor = processor
        self._model = triton_model(digest)
        self._address = address
        self._timeout_s = timeout_s
        self._client = InferenceServerClient(address)

    def check(self, card: Card, max_batch_size: int) -> None:
        """Raises FailedPrecondition when the server has no model of this component or one that takes smaller batches,
        and Unavailable when it does not answer or has not loaded it."""
        try:
            config = self._client.get_model_config(self._model, client_timeout=self._timeout_s).config
        except InferenceServerException as error:
            if error.status() == str(grpc.StatusCode.NOT_FOUND):
                raise FailedPrecondition(
                    f"Triton at {self._address} has no model {self._model}: {card.label} is {card.digest}, was its "
                    "repository exported from that, and copied there?"
                ) from error
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
        """Raises Unavailable when the server is away or has another component's model by now, DeadlineExceeded when it
        takes too long."""
        pixel_values = InferInput(INPUT, list(pixel_values_BCHW.shape), "FP32")
        pixel_values.set_data_from_numpy(pixel_values_BCHW)
        try:
            result = self._client.infer(
                self._model, [pixel_values], outputs=[InferRequestedOutput(OUTPUT)], client_timeout=self._timeout_s
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
        if config.device == "cuda":
            raise FailedPrecondition(
                f"device is cuda, but export {name!r} is computed by the Triton server, where its configuration says: "
                "use cpu or auto"
            )

    @property
    def device(self) -> str:
        return self._config.triton_address

    @property
    def dtype(self) -> str:
        return self._export.precision

    def load(self, folder: Path) -> Embedder:
        processor = ImageProcessor.load(folder / "vision")
        settings = self._config
        embedder = TritonEmbedder(processor, self._card.digest, settings.triton_address, settings.triton_timeout_s)
        embedder.check(self._card, self._config.max_batch_size)
        return embedder
