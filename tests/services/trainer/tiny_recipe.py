"""A whole recipe at sizes that train in a moment, and the outputs of its stages with random weights."""

from pathlib import Path
from typing import Any, Final

import torch

from services.trainer.config import Recipe
from services.trainer.data.tokens import train_tokenizer
from services.trainer.objectives.base import Objective
from services.trainer.stages import OBJECTIVES
from triptych.prompts import PromptTemplate

STEPS: Final = {"steps": 4, "warmup_steps": 1, "learning_rate": 1e-3}
GROUPS: Final = [
    {"kind": "ask", "batch_size": 2, "max_tokens": 192, "num_turns": 2},
    {"kind": "draw", "batch_size": 2, "max_tokens": 128},
    {"kind": "edit", "batch_size": 2, "max_tokens": 128},
    {"kind": "edit_crowd", "batch_size": 2, "max_tokens": 128},
    {"kind": "mixed", "batch_size": 2, "max_tokens": 320, "num_turns": 3},
]
VALUES: Final[dict[str, Any]] = {
    "name": "tiny",
    "out": "out",
    "compile": False,
    "template": {"num_img_tokens": 4},
    "tokenizer": {"vocab_size": 768, "num_conversations": 100},
    "vae": {**STEPS, "batch_size": 2, "block_out_channels": [8, 8, 8, 8], "latent_channels": 4},
    "vae_decoder": {**STEPS, "batch_size": 2},
    "encoder": {
        **STEPS,
        "batch_size": 8,
        "image_size": 32,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "text_hidden_size": 16,
        "text_layers": 1,
        "max_caption_tokens": 16,
        "num_crowds": 2,
    },
    "llm": {
        **STEPS,
        "batch_size": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_layers": 2,
        "num_heads": 2,
        "num_key_value_heads": 1,
        "max_tokens": 192,
    },
    "unet": {
        **STEPS,
        "batch_size": 4,
        "block_out_channels": [16, 16],
        "num_heads": 2,
        "conditioning_length": 8,
        "conditioning_size": 16,
        "text_layers": 1,
        "pool_size": 32,
    },
    "understanding": {**STEPS, "groups": GROUPS[:1], "train_encoder": True, "encoder_lr_scale": 0.5},
    "handover": {**STEPS, "batch_size": 2, "pool_size": 4},
    "multimodal": {
        **STEPS,
        "groups": GROUPS,
        "head_hidden_size": 16,
        "head_intermediate_size": 32,
        "head_heads": 2,
        "head_layers": 1,
        "muon_lr_scale": 2.0,
    },
    "checkpoint": {"version": "0.0.1"},
}


def tiny_values(**changed: Any) -> dict[str, Any]:
    """`VALUES` with some keys changed; tables are merged: `llm={"steps": 9}`."""
    values = dict(VALUES)
    for key, value in changed.items():
        values[key] = {**values[key], **value} if isinstance(values.get(key), dict) else value
    return values


def tiny_recipe(**changed: Any) -> Recipe:
    return Recipe.model_validate(tiny_values(**changed))


def objective(recipe: Recipe, stage: str, upstream: Path) -> Any:
    """The stage's objective over the outputs that `write_upstream` left in `upstream`."""
    made: Objective = OBJECTIVES.load(stage)(recipe, {need.name: need for need in upstream.iterdir()})
    return made


def write_upstream(recipe: Recipe, upstream: Path) -> Path:
    """What every stage but the last hands on, untrained: each written by its own objective."""
    torch.set_num_threads(1)
    template = PromptTemplate(**recipe.template.model_dump())
    tokenizer = recipe.tokenizer
    train_tokenizer(template, tokenizer.vocab_size, tokenizer.num_conversations, recipe.seed, upstream / "tokenizer")
    for stage in OBJECTIVES:
        if stage != "handover":
            objective(recipe, stage, upstream).write(upstream / stage)
    return upstream
