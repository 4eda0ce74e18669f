"""LLaVA-1.5 as published for transformers: CLIP, projector and Vicuna, taken apart into an encoder and an LLM."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import nn

from triptych.card import Card, folder_digest
from triptych.errors import CheckpointError
from triptych.models.cards import CardWriter, Defaults, Spaces
from triptych.models.json_file import read_json
from triptych.models.projectors.mlp import MlpProjector
from triptych.models.published.config import read_part
from triptych.models.published.draft import check_free, check_sources, draft
from triptych.models.published.keys import LLAVA, match, under
from triptych.models.published.llm import PublishedLlm, empty_llm
from triptych.models.published.stored import StoredTensor, read_stored
from triptych.models.published.vision import PublishedVision, empty_tower, read_processor
from triptych.prompts import PromptTemplate

NAME: Final = "llava"
# As the model was trained: "USER: <image>\nWhat is this? ASSISTANT:", and no task tokens. Its tokenizer reads a space
# in front of a line, here in `image_suffix`.
TEMPLATE: Final = PromptTemplate(
    system="",
    user_prefix=" USER:",
    task_token_position="none",
    image_position="turn_start",
    image_prefix=" ",
    image_suffix=" \n",
)
# What a config leaves out is transformers' default for LlavaConfig.
EXPECTED: Final = {"model_type": "llava", "projector_hidden_act": "gelu", "multimodal_projector_bias": True}
CLASS_TOKEN: Final = {"default": "clip_vision_model", "full": "siglip_vision_model"}


@dataclass(frozen=True)
class PublishedLlava:
    """Its parts; the projector, small as it is, in memory."""

    vision: PublishedVision
    projector: MlpProjector
    projector_dtype: torch.dtype
    llm: PublishedLlm

    @classmethod
    def open(cls, folder: Path, seed: int) -> Self:
        """Reads configs, tokenizer and headers. Raises CheckpointError naming the file, or the keys that do not fit."""
        path = folder / "config.json"
        values = read_json(path)
        _check(values, path)
        tower = empty_tower(read_part(values, "vision_config", path), path, values.get("vision_feature_layer", -2))
        llm = empty_llm({"model_type": "llama", **read_part(values, "text_config", path)}, path)
        projector = MlpProjector(MlpProjector.Config(input_size=tower.embed_dim, hidden_size=llm.hidden_size))
        parts = nn.ModuleDict({"vision": tower.vision, "projector": projector, "llm": llm.causal_lm})
        tensors = match(read_stored(folder, ("model", "pytorch_model")), parts, LLAVA, folder)
        dtype = _fill(projector, under("projector.", tensors))
        vision = PublishedVision(tower, read_processor(folder, tower), under("vision.", tensors))
        return cls(vision, projector, dtype, PublishedLlm.grow(llm, under("llm.", tensors), folder, TEMPLATE, seed))


def import_llava(model: Path, out: Path, seed: int = 0) -> dict[str, Card]:
    """Writes the checkpoint `out`, an encoder and an LLM that does not draw; returns its cards by kind.

    `seed` is for the rows of the tokens that a drawing model needs, here only so that it may become one.
    Raises CheckpointError naming the file or the keys that are wrong, InvalidArgument when `out` exists.
    """
    check_free(out)
    check_sources(model=model)
    published = PublishedLlava.open(model, seed)
    with draft(out) as folder:
        encoder_stage = published.vision.write(folder / "encoder", published.projector, published.projector_dtype)
        llm_stage = published.llm.write(folder / "llm")
        spaces = Spaces.of_run(NAME, folder_digest(folder))
        made_by = {"recipe": f"triptych import {NAME}", "seed": seed}
        writer = CardWriter(NAME, "0.1.0", spaces, made_by, Defaults())
        cards = (
            writer.encoder(folder / "encoder", encoder_stage),
            writer.llm(folder / "llm", llm_stage, handover="none"),
        )
        writer.system(folder, cards)
    return {card.kind: card for card in cards}


def _check(values: dict[str, Any], path: Path) -> None:
    for key, wanted in EXPECTED.items():
        if (found := values.get(key, wanted if key != "model_type" else None)) != wanted:
            raise CheckpointError(f"{path}: {key} is {found!r}, must be {wanted!r}")
    if not isinstance(layer := values.get("vision_feature_layer", -2), int):
        raise CheckpointError(f"{path}: vision_feature_layer is {layer!r}, must be one number")
    strategy = values.get("vision_feature_select_strategy", "default")
    tower = read_part(values, "vision_config", path).get("model_type")
    if CLASS_TOKEN.get(str(strategy)) != tower:
        raise CheckpointError(
            f"{path}: vision_feature_select_strategy is {strategy!r} with {tower!r}; CLIP's class token is left out "
            "('default'), SigLIP has none ('full')"
        )


def _fill(projector: MlpProjector, tensors: dict[str, StoredTensor]) -> torch.dtype:
    projector.load_state_dict({key: tensor.read().float() for key, tensor in tensors.items()})
    return tensors["linear_1.weight"].dtype
