"""A tuning recipe that is wrong is refused by key and reason, before any work; its digest follows what it names."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file

from services.trainer.distribution import Distribution
from services.trainer.recipe import read_recipe
from services.trainer.tuning import TuningRecipe, TuningStage
from tests.services.trainer.tuned import LORA, STAGE, recipe
from triptych.errors import InvalidArgument

ROOT = Path(__file__).parents[3]
NONE = Distribution()


def stand_in(root: Path, num_samples: int = 100) -> Path:
    """As much of a base and a mix as is looked at before work."""
    for kind in ("encoder", "llm", "decoder"):
        (root / "genllava" / kind).mkdir(parents=True)
        (root / "genllava" / kind / "card.json").touch()
    digests = {"encoder": "a", "llm": "b", "decoder": "c"}
    (root / "genllava" / "system.json").write_text(json.dumps({"digests": digests}))
    (root / "mix").mkdir()
    shard = {"file": "shard-00000.tar", "num_bytes": 0}
    index = {"groups": {"llava": "understanding", "pretrain": "generation"}, "num_samples": num_samples}
    (root / "mix" / "index.json").write_text(json.dumps({**index, "shards": [{**shard, "samples": num_samples}]}))
    (root / "mix" / "shard-00000.tar").touch()
    rows = [{"task": "understand", "group": "understanding"}, {"task": "generate", "group": "generation"}]
    samples = [rows[number % 2] for number in range(num_samples)]
    (root / "mix" / "shard-00000.json").write_text(json.dumps({"samples": samples}))
    return root


@pytest.mark.parametrize(
    ("stage", "complaint"),
    [
        ({"train": []}, "train"),
        ({"train": ["encoder"]}, "train"),
        ({"train": ["llm", "llm"]}, "says something twice"),
        ({"train": ["llm", "tokens"]}, "tokens are rows of the llm"),
        ({"train": ["head"], "tasks": ["understand"]}, "the head learns from tasks generate and edit"),
        ({"generation_weight": 0.0}, "with generation_weight above 0"),
        ({"train": ["projector"], "tasks": ["generate"]}, "the projector learns from tasks understand and edit"),
        ({"train": ["projector"], "lora": LORA}, "lora adapts the llm"),
        ({"train": ["llm"], "lr_scales": {"head": 2.0}}, "lr_scales names ['head']"),
        ({"lr_scales": {"head": 0.0}}, "lr_scales must be above 0"),
        ({"steps": 3, "epochs": 1.0}, "say one of them"),
        ({"batch_size": 0}, "batch_size"),
        ({"warmup_ratio": 1.0}, "warmup_ratio"),
        ({"learning_rat": 1e-3}, "learning_rat"),
        ({"name": "a/b"}, "name"),
        ({"name": "publish"}, "may not be named publish"),
        ({"lora": {**LORA, "rank": 0}}, "rank"),
        ({"lora": {**LORA, "targets": []}}, "targets"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(tmp_path: Path, stage: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(complaint)):
        recipe(tmp_path, stage)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"mix": "mix.toml"}, "say either data"),
        ({"data": None}, "say either data"),
        ({"distribution": {"num_processes": 8}}, "all: batch_size 4 is no multiple of 8 processes"),
        ({"distribution": {"precision": "f16"}}, "distribution.precision"),
        ({"stages": []}, "stages"),
        ({"stages": [STAGE, STAGE]}, "stages named twice: all"),
        ({"held_out": -1}, "held_out"),
        ({"checkpoint": {}}, "checkpoint.version"),
        ({"export": {"encoder": ["onnx-f3"]}}, "known exports are"),
        ({"colour": "red"}, "colour"),
        ({"name": "../x"}, "name"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(tmp_path: Path, changed: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(complaint)):
        recipe(tmp_path, **changed)


def test_the_base_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="is the base, which stays as it is"):
        recipe(tmp_path, out=str(tmp_path / "genllava"))
    with pytest.raises(ValidationError, match="is the base, which stays as it is"):
        recipe(tmp_path, out=str(tmp_path / "mix" / ".." / "genllava"))
    (tmp_path / "genllava").mkdir()
    (tmp_path / "latest").symlink_to("genllava")
    with pytest.raises(ValidationError, match="is the base, which stays as it is"):
        recipe(tmp_path, out=str(tmp_path / "latest"))


def test_what_is_not_there_is_said_before_work(tmp_path: Path) -> None:
    root = stand_in(tmp_path)
    recipe(root).check()
    for changed, complaint in (
        ({"base": str(root / "none")}, r"base .*none is no checkpoint: .*system\.json is missing"),
        ({"data": str(root / "none")}, r"data .*none is no finished mix: .*index\.json is missing"),
        ({"data": None, "mix": str(root / "none.toml")}, r"mix .*none\.toml does not exist"),
        ({"held_out": 97}, "all: batch_size 4 and held_out 97 are more than the 100 samples"),
        ({"stages": [{**STAGE, "groups": ["editing"]}]}, r"all: groups \['editing'\]: the mix has"),
        ({"stages": [{**STAGE, "data": str(root / "other")}]}, r"other is no finished mix"),
        ({"evaluate": {"data": {"vqb": str(root)}}}, r"evaluate.data: unknown evaluator 'vqb', known: vqa, "),
        ({"evaluate": {"data": {"vqa": str(root / "none")}}}, r"vqa's folder .*none does not exist"),
    ):
        with pytest.raises(InvalidArgument, match=complaint):
            recipe(root, **changed).check()
    (root / "genllava" / "decoder" / "card.json").unlink()
    with pytest.raises(InvalidArgument, match="decoder is missing"):
        recipe(root).check()
    (root / "genllava" / "system.json").write_text(json.dumps({"digests": {"encoder": "a", "llm": "b"}}))
    with pytest.raises(InvalidArgument, match="has no decoder to draw with"):
        recipe(root).check()
    recipe(root, {"train": ["llm"], "tasks": ["understand"]}).check()


@pytest.mark.parametrize(
    ("stages", "changed", "complaint"),
    [
        ([{}, {"tasks": ["edit"]}], {}, "stage1: batch_size 4, but the mix has 0 samples of tasks ['edit']"),
        (
            [{"train": ["llm"], "tasks": ["generate"], "groups": ["understanding"]}],
            {},
            "stage0: batch_size 4, but the mix has 0 samples of tasks ['generate'] in groups ['understanding']",
        ),
        ([{"tasks": ["understand", "edit"]}], {}, "stage0: train has the head, but the data have no pictures to draw"),
        (
            [{"gate": {"tokens_rihgt": 0.5}}],
            {},
            "stage0: gate names tokens_rihgt, known are understanding, tokens_right",
        ),
        ([{"gate": {"tokens_right": 0.5}}], {"held_out": 0}, "stage0: gate names tokens_right, known are none"),
        (
            [{"train": ["llm"], "tasks": ["understand"], "gate": {"generation": 0.5}}],
            {},
            "stage0: gate names generation, known are understanding, tokens_right",
        ),
        ([{}], {"evaluate": {"gate": {"VQA accuracy": 0.5}}}, "evaluate.gate names VQA accuracy, known are underst"),
    ],
)
def test_what_a_later_stage_would_refuse_is_said_before_work(
    stages: list[dict[str, Any]], changed: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    named = [{**stage, "name": f"stage{number}"} for number, stage in enumerate(stages)]
    with pytest.raises(InvalidArgument, match=re.escape(complaint)):
        recipe(stand_in(tmp_path), *named, **changed).check()


def test_samples_held_out_are_not_counted_on(tmp_path: Path) -> None:
    root = stand_in(tmp_path)
    pictures = {"name": "pictures", "train": ["llm"], "tasks": ["generate"]}
    recipe(root, {}, pictures, held_out=50).check()
    complaint = r"pictures: batch_size 4, but the mix has [0-3] samples of tasks \['generate'\] beside the 96 held out"
    with pytest.raises(InvalidArgument, match=complaint):  # of 100, every other one is to be drawn
        recipe(root, {}, pictures, held_out=96).check()


def test_a_recipe_s_own_mix_is_looked_at_as_soon_as_it_is_there(tmp_path: Path) -> None:
    root = stand_in(tmp_path)
    edits = {"name": "edits", "train": ["llm"], "tasks": ["edit"]}
    own = recipe(root, {}, edits, data=None, mix=str(ROOT / "recipes" / "mixes" / "gvit.toml"), runs=str(root / "runs"))
    own.check()
    (own.folder / "mix").mkdir(parents=True)
    (root / "mix").rename(own.folder / "mix" / "out")
    own.check()  # it may be of other settings
    (own.folder / "mix" / "done.json").write_text(json.dumps({"digest": own.digest("mix")}))
    with pytest.raises(InvalidArgument, match=r"edits: batch_size 4, but the mix has 0 samples of tasks \['edit'\]"):
        own.check()


def test_gates_of_every_figure_are_fine(tmp_path: Path) -> None:
    root = stand_in(tmp_path)
    figures = {"understanding": 0.0, "tokens_right": 0.5, "generation": 0.0}
    judged = {"data": {"vqa": str(root)}, "gate": {**figures, "VQA accuracy": 0.5, "VQA accuracy: number": 0.5}}
    recipe(root, {"gate": figures}, evaluate=judged).check()


def test_adapters_are_for_layers_that_the_base_has(tmp_path: Path) -> None:
    root = stand_in(tmp_path)
    block = "model.layers.0.self_attn"
    shapes = {f"{block}.q_proj.weight": (2, 2), f"{block}.norm.weight": (2,), "model.embed_tokens.weight": (2, 2)}
    weights = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    save_file(weights, root / "genllava" / "llm" / "model-00001-of-00001.safetensors")
    recipe(root, {"lora": {**LORA, "targets": ["q_proj"]}}).check()
    later = {"name": "later", "lora": {**LORA, "targets": ["q_proj", "c_attn", "embed_tokens"]}}
    with pytest.raises(InvalidArgument, match=r"later: lora.targets \['c_attn', 'embed_tokens'\]: .* are \['q_proj'\]"):
        recipe(root, {}, later).check()


def test_what_is_no_checkpoint_is_not_published_over(tmp_path: Path) -> None:
    root = stand_in(tmp_path)
    (root / "out").mkdir()
    with pytest.raises(InvalidArgument, match=r"out .*/out exists and is no checkpoint"):
        recipe(root).check()


def test_digests(tmp_path: Path) -> None:
    root = stand_in(tmp_path)
    plain = recipe(root).digest("all")
    for same in (
        {"evaluate_every": 3, "save_every": 2, "gate": {"tokens_right": 0.1}},
        {},
    ):
        assert recipe(root, same).digest("all") == plain
    distribution = {"device": "cpu", "precision": "f32", "num_processes": 2, "micro_batch_size": 1}
    assert recipe(root, distribution=distribution).digest("all") == plain
    others = [
        recipe(root, {"learning_rate": 2e-3}),
        recipe(root, seed=1),
        recipe(root, held_out=5),
        recipe(root, distribution={"device": "cpu", "precision": "bf16"}),
    ]
    assert len({plain, *(other.digest("all") for other in others)}) == 5
    (root / "genllava" / "system.json").write_text(json.dumps({"digests": {"encoder": "a", "llm": "b2"}}))
    changed = recipe(root).digest("all")
    (root / "mix" / "index.json").write_text(json.dumps({"num_samples": 101}))
    assert len({plain, changed, recipe(root).digest("all")}) == 3


def test_the_schedule_is_the_papers() -> None:
    stage = TuningStage(name="tuning", train=("projector", "llm", "head"))
    schedule = stage.schedule(16_218, NONE)  # 2,076,000 samples in batches of 128
    assert (schedule.steps, schedule.warmup_steps, schedule.batch_size) == (16_218, 487, 128)
    assert (schedule.learning_rate, schedule.weight_decay, schedule.max_grad_norm) == (2e-5, 0.1, 1.0)
    assert stage.generation_weight == 0.5
    assert TuningStage(name="a", train=("llm",), epochs=0.5).schedule(9, NONE).steps == 4
    assert TuningStage(name="a", train=("llm",), steps=7).schedule(9, NONE).steps == 7


@pytest.mark.parametrize("name", ["genllava", "genllava-lora", "genllava-und-first", "genllava-gen-first"])
def test_the_recipes_that_ship(name: str) -> None:
    read = read_recipe(ROOT / "recipes" / f"{name}.toml")
    assert isinstance(read, TuningRecipe)
    assert read.name == name
    assert read.spread.num_processes == 8
    order = {"genllava-und-first": ["instruction", "generation"], "genllava-gen-first": ["generation", "instruction"]}
    assert list(read.names) == (["alignment", *order[name]] if name in order else ["tuning"])
    assert (read.stages[-1].lora is not None) == (name == "genllava-lora")
