"""What vision towers from transformers have in common: a folder, a feature layer, square pictures."""

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from triptych.errors import CheckpointError
from triptych.models.base import Encoder
from triptych.models.transformers_folder import read_transformers, write_transformers


class VisionTower(Encoder):
    """A transformers vision model, read at hidden layer `feature_layer`; a subclass names it and writes `forward`."""

    vision_class: ClassVar[type[Any]]

    def __init__(self, config: Any, feature_layer: int = -2) -> None:
        super().__init__()
        _check_feature_layer(config, feature_layer)
        self.vision = self.vision_class(config)
        self.feature_layer = feature_layer

    @property
    def image_size(self) -> int:
        size = self.vision.config.image_size
        assert isinstance(size, int)  # these models' pictures are square
        return size

    @property
    def embed_dim(self) -> int:
        return int(self.vision.config.hidden_size)

    @property
    def num_patches(self) -> int:
        patch_size = self.vision.config.patch_size
        assert isinstance(patch_size, int)
        return int((self.image_size // patch_size) ** 2)

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks up to the feature layer: what comes after it never runs."""
        layers: nn.ModuleList = self.vision.encoder.layers
        return layers[: len(layers) + 1 + self.feature_layer]

    @classmethod
    def load(cls, folder: Path, feature_layer: int = -2, dtype: torch.dtype = torch.float32) -> Self:
        vision = read_transformers(cls.vision_class, folder, dtype)
        try:
            _check_feature_layer(vision.config, feature_layer)
        except ValueError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        encoder = cls.__new__(cls)
        super(Encoder, encoder).__init__()
        encoder.vision, encoder.feature_layer = vision, feature_layer
        return encoder

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        write_transformers(self.vision, folder, dtype)


def _check_feature_layer(config: Any, feature_layer: int) -> None:
    if not -config.num_hidden_layers - 1 <= feature_layer < 0:
        raise ValueError(f"feature_layer {feature_layer}: out of -{config.num_hidden_layers + 1}..-1")
