"""A published vision tower: SigLIP or CLIP, alone or in a pair with its text tower."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from triptych.errors import CheckpointError
from triptych.models import ENCODERS
from triptych.models.base import Projector
from triptych.models.encoder_stage import EncoderStage
from triptych.models.encoders.tower import VisionTower
from triptych.models.json_file import read_json
from triptych.models.processors import ImageProcessor
from triptych.models.published.config import naming, parse_config, read_part
from triptych.models.published.keys import VISION, match
from triptych.models.published.shards import write_shards
from triptych.models.published.stored import StoredTensor, read_stored
from triptych.models.published.streamed import build_empty, stream


@dataclass(frozen=True)
class PublishedVision:
    """An empty tower, the tensors that belong in it, and how pictures are prepared for it."""

    tower: VisionTower
    processor: ImageProcessor
    tensors: Mapping[str, StoredTensor]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads configs and headers. Raises CheckpointError naming the file, or the keys that do not fit."""
        path = folder / "config.json"
        values = read_json(path)
        tower = empty_tower(read_part(values, "vision_config", path) if "vision_config" in values else values, path)
        tensors = match(read_stored(folder, ("model", "pytorch_model")), tower.vision, VISION, folder)
        return cls(tower, read_processor(folder, tower), tensors)

    def write(self, folder: Path, projector: Projector, projector_dtype: torch.dtype) -> EncoderStage:
        """Writes a component folder but for card and probes; returns the stage, which reads it as needed."""
        stage = EncoderStage(self.tower, projector, self.processor).eval().requires_grad_(False)
        stage.save_around_encoder(folder, projector_dtype)
        self.tower.vision.config.save_pretrained(str(folder / "vision"))
        write_shards(folder / "vision", "model", self.tensors)
        stream(self.tower.vision, read_stored(folder / "vision", ("model",)))
        return stage


def empty_tower(values: dict[str, Any], where: Path, feature_layer: int = -2) -> VisionTower:
    """The encoder that a `vision_config` names, without weights. Raises CheckpointError naming file and value."""
    try:
        encoder_class: type[VisionTower] = ENCODERS.load(str(values.get("model_type")))
    except ValueError as error:
        raise CheckpointError(f"{where}: model_type of the vision tower: {error}") from error
    config = parse_config(encoder_class.vision_class, values, where)
    with naming(where):
        return build_empty(lambda: encoder_class(config, feature_layer))


def read_processor(folder: Path, tower: VisionTower) -> ImageProcessor:
    """Raises CheckpointError when pictures would come in another size than the tower takes."""
    processor = ImageProcessor.load(folder)
    if processor.size != tower.image_size:
        raise CheckpointError(
            f"{folder}: preprocessing resizes to {processor.size}, the encoder takes {tower.image_size}"
        )
    return processor
