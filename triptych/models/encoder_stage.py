"""Everything behind EncoderService: preprocessing, vision encoder and projector."""

import json
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from triptych.errors import CheckpointError
from triptych.models import ENCODERS, PROJECTORS
from triptych.models.base import Encoder, Projector, read_class
from triptych.models.json_file import read_value
from triptych.models.processors import ImageProcessor


class EncoderStage(nn.Module):
    """Pictures to embeddings in the LLM's input space."""

    def __init__(self, encoder: Encoder, projector: Projector, processor: ImageProcessor) -> None:
        super().__init__()
        self.encoder: Encoder = encoder
        self.projector: Projector = projector
        self.processor = processor

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32) -> Self:
        """Reads `vision/`, as `dtype`, and `projector/`. Raises CheckpointError naming what is missing or wrong."""
        config = folder / "config.json"
        encoder_class = read_class(config, "encoder", ENCODERS)
        projector_class = read_class(config, "projector", PROJECTORS)
        encoder = encoder_class.load(folder / "vision", read_value(config, "feature_layer"), dtype)
        projector = projector_class.load(folder / "projector")
        processor = ImageProcessor.load(folder / "vision")
        if processor.size != encoder.image_size:
            raise CheckpointError(
                f"{folder / 'vision'}: preprocessing resizes to {processor.size}, "
                f"the encoder takes {encoder.image_size}"
            )
        return cls(encoder, projector, processor).eval().requires_grad_(False)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes what `load` reads."""
        self.encoder.save(folder / "vision", dtype)
        self.save_around_encoder(folder, dtype)

    def save_around_encoder(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Projector, preprocessing and config; the vision model's own files are the caller's."""
        vision = folder / "vision"
        vision.mkdir(parents=True, exist_ok=True)
        self.projector.save(folder / "projector", dtype)
        (vision / "preprocessor_config.json").write_text(json.dumps(self.processor.to_dict(), indent=2) + "\n")
        config = {
            "encoder": self.encoder.type_name,
            "feature_layer": self.encoder.feature_layer,
            "projector": self.projector.type_name,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def preprocess(self, images: list[Image.Image]) -> Tensor:
        """RGB pictures of any size to pixel_values (B, 3, H, W)."""
        return self.processor(images)

    def forward(self, pixel_values_BCHW: Tensor) -> Tensor:
        """Embeddings (B, M, D_llm)."""
        return self.projector(self.encoder(pixel_values_BCHW))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def embed(self, pixel_values_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """`forward` where and as precisely as the parameters stand, numpy in and out."""
        parameter = next(self.parameters())
        embeddings = self(torch.from_numpy(pixel_values_BCHW).to(parameter.device, parameter.dtype))
        return embeddings.float().cpu().numpy()  # type: ignore[no-any-return]
