"""Tuning as it is run: from an imported checkpoint and data as published to a checkpoint that answers, bit for bit the
base where nothing was trained."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from services.trainer.recipe import read_recipe
from services.trainer.stages import graph, is_done
from services.trainer.worker import run_stage
from tests.services.trainer.evaluators.published_sets import write_vqa
from tests.services.trainer.test_pipeline import literal
from tests.services.trainer.tuned import STAGE
from triptych.card import matches, read_card, verify_digest
from triptych.models.unified import UnifiedModel
from triptych.prompts import Message, Picture
from triptych.up import check_checkpoint

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 600


def write_recipe(root: Path, tmp_path: Path, base: str, stages: list[dict[str, Any]], data: Path | None) -> Path:
    head = {"kind": "tuning", "name": "tuned", "base": str(root / base), "held_out": 8, "runs": str(tmp_path / "runs")}
    source = {"data": str(data)} if data else {"mix": str(tmp_path / "mix.toml")}
    lines = [f"{key} = {literal(value)}" for key, value in {**head, **source, "out": str(tmp_path / "out")}.items()]
    for stage in stages:
        lines += ["[[stages]]", *(f"{key} = {literal(value)}" for key, value in {**STAGE, **stage}.items())]
    lines += ["[checkpoint]", 'version = "0.0.2"', 'weights = "f32"', "[distribution]", 'device = "cpu"']
    lines += ['precision = "f32"', "[evaluate]", "gate = { tokens_right = 0.0 }"]
    lines.append(f"data = {literal({'vqa': str(write_vqa(tmp_path / 'vqa'))})}")
    path = tmp_path / "recipe.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(path: Path, *args: str) -> str:
    command = [sys.executable, "-m", "services.trainer", str(path), "--threads", "1", *args]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=path.parent, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def finish(path: Path) -> None:
    """Every stage that is left, in this process."""
    recipe = read_recipe(path)
    recipe.check()
    for stage in graph(recipe).needs:
        run_stage(recipe, stage, 1)
        assert is_done(recipe, stage)


def differing(one: Path, other: Path) -> set[str]:
    """Folders of weights in which a tensor is not the same, bit for bit."""
    files = {path.relative_to(one) for path in one.rglob("*.safetensors") if path.name != "probes.safetensors"}
    assert files == {
        path.relative_to(other) for path in other.rglob("*.safetensors") if path.name != "probes.safetensors"
    }
    found = set()
    for name in files:
        before, after = load_file(one / name), load_file(other / name)
        assert before.keys() == after.keys()
        if any(not (before[key].float() == after[key].float()).all() for key in before):
            found.add(str(name.parent))
    return found


@pytest.mark.slow
def test_from_published_data_to_a_checkpoint_that_answers(tuning_root: Path, tmp_path: Path) -> None:
    mix = json.loads((tuning_root / "mix" / "work" / "mix.json").read_text())["mix"]
    lines = [f"{key} = {literal(mix[key])}" for key in ("name", "samples_per_shard", "shares")]
    lines.append(f"length = {literal(mix['length'])}")
    for source in mix["sources"]:
        given = {key: value for key, value in source.items() if key in ("name", "group", "type", "path", "images")}
        lines += ["[[sources]]", *(f"{key} = {literal(value)}" for key, value in given.items() if value)]
    (tmp_path / "mix.toml").write_text("\n".join(lines) + "\n")
    stages = [
        {"name": "alignment", "train": ["projector"], "tasks": ["understand"], "steps": 1},
        {"name": "drawing", "train": ["head"], "tasks": ["generate", "edit"], "groups": ["generation", "editing"]},
    ]
    path = write_recipe(tuning_root, tmp_path, "genllava", stages, None)
    finish(path)
    assert check_checkpoint(tmp_path / "out") == ("encoder", "llm", "decoder")
    assert differing(tuning_root / "genllava", tmp_path / "out") == {"encoder/projector", "decoder/head"}
    model = UnifiedModel.load(tmp_path / "out")
    photo = Image.fromarray(np.zeros((20, 20, 3), np.uint8))
    seen = model.respond([Message("user", (Picture(0), "what?"))], ["understand"], [photo], max_tokens=3)
    drawn = model.respond([Message("user", ("draw",))], ["generate"], [], num_inference_steps=2, max_tokens=2)
    assert len(seen.token_ids) >= 1
    assert drawn.pictures[0].shape == (16, 16, 3)
    cards = {kind: read_card(tmp_path / "out" / kind) for kind in ("encoder", "llm", "decoder")}
    for kind, card in cards.items():
        verify_digest(tmp_path / "out" / kind, card)
        assert card.made_by["base"]["llm"] == read_card(tuning_root / "genllava" / "llm").digest
    assert cards["decoder"].facts["default_guidance_scale"] == 7.5  # the base's
    old = read_card(tuning_root / "genllava" / "llm")
    assert matches(cards["encoder"].output("embeddings"), old.input("embeddings"))
    assert matches(old.output("hidden_states"), cards["decoder"].input("hidden_states"))


def test_a_model_that_only_understands_stays_one(tuning_root: Path, tmp_path: Path) -> None:
    stage = {"train": ["projector", "llm"], "tasks": ["understand"], "lora": {"rank": 2, "alpha": 4}}
    path = write_recipe(tuning_root, tmp_path, "llava", [stage], tuning_root / "mix")
    assert '{"stage": "checkpoint"}' in run(path, "--task", "train", "--json")
    finish(path)
    assert check_checkpoint(tmp_path / "out") == ("encoder", "llm")
    assert differing(tuning_root / "llava", tmp_path / "out") == {"encoder/projector", "llm"}
    judged = tmp_path / "runs" / "tuned" / "evaluate"
    assert 0 <= json.loads((judged / "held_out.json").read_text())["tokens_right"] <= 1
    assert json.loads((judged / "evaluation.json").read_text())["evaluators"]["vqa"]["items"] > 0
    old, new = (read_card(folder / "llm") for folder in (tuning_root / "llava", tmp_path / "out"))
    assert new.facts == old.facts
    assert not matches(read_card(tmp_path / "out" / "encoder").output("embeddings"), old.input("embeddings"))
    shutil.rmtree(tmp_path / "out")
    finish(path)  # all is done: nothing is trained again, nothing is published again
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_said_before_work(tuning_root: Path, tmp_path: Path) -> None:
    path = write_recipe(tuning_root, tmp_path, "nothing", [{}], tuning_root / "mix")
    command = [sys.executable, "-m", "services.trainer", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 2
    assert "nothing is no checkpoint" in done.stderr
    assert not (tmp_path / "runs").exists()
