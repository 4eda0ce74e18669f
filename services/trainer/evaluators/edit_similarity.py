"""Edits of photographs, by how near they come to the wanted pictures; in the Image Editing Request data's files."""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch.nn.functional import cosine_similarity

from services.trainer.data.records import BadRecord
from services.trainer.data.sources.base import below
from services.trainer.evaluators.base import Evaluator, Example, Outcome, Settings, png
from services.trainer.evaluators.published import one_file, open_picture, read_list, value
from triptych.errors import InvalidArgument
from triptych.models.unified import UnifiedModel
from triptych.prompts import Picture

PICTURES = ("img0", "img1")  # before, and as wanted


class EditSimilarity(Evaluator):
    """EVR's validation set (Tan et al. 2019): one `*.json` of `{img0, img1, sents}` and the pictures, in one folder.

    L1 is the mean difference of pixels, of 1; a cosine is that of features: of the checkpoint's own encoder, and with
    `dino` of that model's class token (the paper's DINOScore). Each stands beside that of the picture left as it was,
    which an edit must beat. Pictures are compared at the size the decoder draws.
    """

    title = "Edits, by similarity"
    draws: ClassVar[bool] = True
    bar: ClassVar[float | None] = None

    def __init__(self, settings: Settings, data: Path | None) -> None:
        super().__init__(settings, data)
        self.path = one_file(self.folder, "*.json")
        self.rows = read_list(self.path)

    def __len__(self) -> int:
        return self.at_most(len(self.rows))

    def check(self) -> None:
        for index in range(len(self)):
            self._request(index)
            for key in PICTURES:
                path = self._path(index, key)
                if not path.is_file():
                    raise InvalidArgument(f"{self.path}: record {index}: {path} does not exist")
        _ = self._dino  # loads it, or says why it cannot be

    def judge(self, model: UnifiedModel, index: int) -> Outcome:
        instruction = self._request(index)
        before, wanted = (open_picture(path, path.name) for path in (self._path(index, key) for key in PICTURES))
        reply = self.respond(model, "edit", (Picture(0), instruction), [before], self.seeded(index))
        edited = Image.fromarray(reply.pictures[0])
        before_, wanted_ = (image.resize(edited.size, Image.Resampling.BICUBIC) for image in (before, wanted))
        cosine = self._cosine(model, edited, wanted_)
        scores = [
            ("edits: L1 to the wanted picture", _l1(edited, wanted_)),
            ("edits: L1 to the wanted picture, nothing changed", _l1(before_, wanted_)),
            ("edits: cosine to the wanted picture", cosine),
            ("edits: cosine to the wanted picture, nothing changed", self._cosine(model, before_, wanted_)),
        ]
        if self._dino:
            scores.append(("edits: DINO cosine to the wanted picture", self._dino_cosine(edited, wanted_)))
            scores.append(
                ("edits: DINO cosine to the wanted picture, nothing changed", self._dino_cosine(before_, wanted_))
            )
        parts = (
            ("before", png(before)),
            ("instruction", instruction),
            ("after", png(edited)),
            ("wanted", png(wanted)),
            ("cosine", f"{cosine:.3f}"),
        )
        return Outcome(tuple(scores), Example(cosine, parts))

    def _request(self, index: int) -> str:
        sentences = value(self.path, self.rows[index], "sents", list)
        if not sentences:
            raise InvalidArgument(f"{self.path}: record {index} has no sents")
        return str(sentences[0])

    def _path(self, index: int, key: str) -> Path:
        """Right in the folder or in its `images`, as the archive was unpacked."""
        name = value(self.path, self.rows[index], key, str)
        try:
            paths = (below(self.folder, name), below(self.folder / "images", name))
        except BadRecord as error:
            raise InvalidArgument(f"{self.path}: {error}") from None
        return next((path for path in paths if path.is_file()), paths[0])

    @torch.inference_mode()
    def _cosine(self, model: UnifiedModel, one: Image.Image, other: Image.Image) -> float:
        stage = model.encoder
        features = stage.encoder(stage.preprocess([one, other])).float().mean(dim=1)
        return cosine_similarity(features[0], features[1], dim=0).item()

    @cached_property
    def _dino(self) -> tuple[Any, Any] | None:
        """Model and preprocessing."""
        if self.settings.dino is None:
            return None
        from transformers import AutoImageProcessor, AutoModel

        folder = str(self.settings.dino)
        try:
            return (
                AutoModel.from_pretrained(folder, local_files_only=True).eval(),
                AutoImageProcessor.from_pretrained(folder, local_files_only=True, use_fast=False),
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise InvalidArgument(f"{folder}: {error}") from error

    @torch.inference_mode()
    def _dino_cosine(self, one: Image.Image, other: Image.Image) -> float:
        assert self._dino is not None
        model, processor = self._dino
        tokens = model(**processor(images=[one, other], return_tensors="pt")).last_hidden_state[:, 0].float()
        return cosine_similarity(tokens[0], tokens[1], dim=0).item()


def _l1(one: Image.Image, other: Image.Image) -> float:
    difference = np.asarray(one, np.float32) - np.asarray(other, np.float32)
    return float(np.abs(difference).mean() / 255)
