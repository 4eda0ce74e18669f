"""The tables as they ship, over a tiny recipe."""

from pathlib import Path
from typing import Any

import torch

from services.trainer.config import Recipe
from services.trainer.worker import run_stage
from tests.services.trainer.test_pipeline import toml
from tests.services.trainer.tiny_recipe import tiny_values

ROOT = Path(__file__).parents[4]
TABLES = ROOT / "recipes" / "ablations"
STAGES = ("tokenizer", "vae", "vae_decoder", "encoder", "llm", "unet", "understanding")
NAMES = ("data", "encoder", "img_tokens", "order")
TINY: dict[str, Any] = {
    "recipe": "tiny.toml",
    "steps": 10,
    "num_scenes": 1,
    "start": "understanding",
    "align_share": 0.8,
    "align_only_share": 0.5,
    "stage": {"noise_draws": 1, "align_weight": 1.0, "train_encoder": True, "muon_lr_scale": 2.0},
    "groups": {
        "captions": [{"kind": "survey", "batch_size": 1, "max_tokens": 192}],
        "questions": [{"kind": "ask", "batch_size": 1, "max_tokens": 192, "num_turns": 1}],
        "more_questions": [{"kind": "pairs", "batch_size": 1, "max_tokens": 256, "num_turns": 1}],
        "drawings": [{"kind": "draw", "batch_size": 1, "max_tokens": 128}],
        "edits": [{"kind": "edit", "batch_size": 1, "max_tokens": 128}],
    },
}


def write_tables(folder: Path, parts: str | None = None, llm_steps: int | None = None) -> None:
    """Into `folder`, where the recipe's runs go, too."""
    values = tiny_values(runs=str(folder / "runs"), template={"num_img_tokens": 16})
    values["checkpoint"] = {**values["checkpoint"], "num_inference_steps": 1, "max_tokens": 4}
    if llm_steps:
        values["llm"] = {**values["llm"], "steps": llm_steps}
    (folder / "tiny.toml").write_text(toml(values))
    (folder / "common.toml").write_text(toml({**TINY, **({"parts": parts} if parts else {})}))
    for name in NAMES:
        (folder / f"{name}.toml").write_text((TABLES / f"{name}.toml").read_text())


def finish_base_run(folder: Path) -> None:
    """Of what `write_tables` has written, as far as rows build on it."""
    torch.set_num_threads(1)
    for stage in STAGES:
        run_stage(Recipe.read(folder / "tiny.toml"), stage, threads=1)
