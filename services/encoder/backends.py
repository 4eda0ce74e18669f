"""What may compute the forward pass: a table by name. A backend is imported only when it is asked for."""

from pathlib import Path
from typing import Final, Protocol

from services.encoder.config import EncoderConfig
from triptych.card import Card
from triptych.errors import FailedPrecondition
from triptych.exports import Export
from triptych.models.embedder import Embedder
from triptych.registry import Registry

BACKENDS: Final = Registry(
    "backend",
    {
        "torch": "services.encoder.torch_backend:TorchBackend",
        "onnxruntime": "services.encoder.onnxruntime_backend:OnnxruntimeBackend",
        "triton": "services.encoder.triton_backend:TritonBackend",
    },
)


class Backend(Protocol):
    """Made from config and card when the process starts, loaded on the worker thread. Device and dtype as Describe
    shows them."""

    @property
    def device(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    def load(self, folder: Path) -> Embedder:
        """Raises CheckpointError naming what is missing or wrong in the component's `folder`."""


def choose_backend(config: EncoderConfig, card: Card) -> Backend:
    """Raises FailedPrecondition when what `config` asks for is not here, CheckpointError when the card has it not."""
    try:
        backend: Backend = BACKENDS.load(config.backend)(config, card)
    except ModuleNotFoundError as error:
        raise FailedPrecondition(f"backend {config.backend} needs {error.name}, which is not installed") from error
    return backend


def check_dtype(config: EncoderConfig, name: str, export: Export) -> None:
    """Raises FailedPrecondition when `config` asks for a dtype that is not the export's."""
    if config.dtype not in ("auto", export.precision):
        raise FailedPrecondition(f"dtype is {config.dtype}, but export {name!r} computes in {export.precision}")
