"""The forward pass in torch, in this process."""

from pathlib import Path

from services.encoder.config import EncoderConfig
from triptych.card import Card
from triptych.errors import FailedPrecondition
from triptych.models.embedder import Embedder
from triptych.models.encoder_stage import EncoderStage
from triptych.models.placement import DTYPES, Placement, prepare_torch


class TorchBackend:
    """The component as it was trained."""

    def __init__(self, config: EncoderConfig, card: Card) -> None:
        if config.export is not None:
            raise FailedPrecondition(f"export is {config.export!r}, but backend torch runs none")
        prepare_torch(config.num_threads)
        self._placement = Placement.choose(config.device, config.dtype)

    @property
    def device(self) -> str:
        return self._placement.device

    @property
    def dtype(self) -> str:
        return self._placement.dtype

    def load(self, folder: Path) -> Embedder:
        return self._placement.place(EncoderStage.load(folder, DTYPES[self._placement.dtype]))
