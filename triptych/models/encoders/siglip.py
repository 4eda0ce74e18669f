"""SigLIP's vision tower, read at a hidden layer."""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel

from triptych.errors import CheckpointError
from triptych.models.base import Encoder
from triptych.models.transformers_folder import read_transformers, write_transformers


class SiglipEncoder(Encoder):
    """Patch features of hidden layer `feature_layer` (-2: the penultimate, GenLLaVA section 4.2), no post-norm.

    Equals transformers' `SiglipVisionModel(...).hidden_states[feature_layer]`, but only runs the blocks it needs.
    """

    type_name = "siglip_vision_model"

    def __init__(self, config: SiglipVisionConfig, feature_layer: int = -2) -> None:
        super().__init__()
        _check_feature_layer(config, feature_layer)
        self.vision = SiglipVisionModel(config)
        self.feature_layer = feature_layer

    @property
    def image_size(self) -> int:
        size = self.vision.config.image_size
        assert isinstance(size, int)  # SigLIP's pictures are square
        return size

    @property
    def embed_dim(self) -> int:
        return int(self.vision.config.hidden_size)

    @property
    def num_patches(self) -> int:
        patch_size = self.vision.config.patch_size
        assert isinstance(patch_size, int)
        return int((self.image_size // patch_size) ** 2)

    def forward(self, pixel_values_BCHW: Tensor) -> Tensor:
        hidden_BND = self.vision.embeddings(pixel_values_BCHW)
        layers = self.vision.encoder.layers
        for layer in layers[: len(layers) + 1 + self.feature_layer]:
            hidden_BND = layer(hidden_BND, attention_mask=None)
        return hidden_BND  # type: ignore[no-any-return]

    @classmethod
    def load(cls, folder: Path, feature_layer: int = -2) -> Self:
        vision = read_transformers(SiglipVisionModel, folder)
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


def _check_feature_layer(config: SiglipVisionConfig, feature_layer: int) -> None:
    if not -config.num_hidden_layers - 1 <= feature_layer < 0:
        raise ValueError(f"feature_layer {feature_layer}: out of -{config.num_hidden_layers + 1}..-1")
