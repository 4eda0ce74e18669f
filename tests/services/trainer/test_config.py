"""A recipe that is wrong is refused by file, key and reason; its digest follows the named stages and nothing else."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.trainer.config import Recipe
from services.trainer.recipe import read_recipe
from tests.services.trainer.tiny_recipe import GROUPS, tiny_recipe
from triptych.errors import InvalidArgument
from triptych.prompts import PromptTemplate

ROOT = Path(__file__).parents[3]
TOML = """\
name = "toy"
out = "out"

[tokenizer]
[vae]
steps = 1
batch_size = 1
learning_rate = 1e-3
[vae_decoder]
steps = 1
batch_size = 1
learning_rate = 1e-3
[unet]
steps = 1
batch_size = 1
learning_rate = 1e-3
[encoder]
steps = 1
batch_size = 8
learning_rate = 1e-3
[llm]
steps = 1
batch_size = 1
learning_rate = 1e-3
[understanding]
steps = 1
learning_rate = 1e-3
groups = [{ kind = "ask", batch_size = 1, max_tokens = 64 }]
[multimodal]
steps = 1
learning_rate = 1e-3
groups = [{ kind = "draw", batch_size = 1, max_tokens = 64 }]
[handover]
steps = 1
batch_size = 1
learning_rate = 1e-3
[checkpoint]
version = "1"
"""


def read(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "toy.toml"
    path.write_text(text)
    return Recipe.read(path)


def test_reads(tmp_path: Path) -> None:
    recipe = read(tmp_path, TOML)
    assert (recipe.name, recipe.seed, recipe.folder) == ("toy", 0, Path("runs/toy"))
    assert recipe.multimodal.groups[0].kind == "draw"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_that_ship(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    if isinstance(recipe, Recipe):
        PromptTemplate(**recipe.template.model_dump())
        recipe.check()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("[tokenizer]", "[tokenizer]\nvocabulary = 5", "tokenizer.vocabulary"),
        ('name = "toy"', 'name = "toy"\ncolour = 1', "colour"),
        ('kind = "draw"', 'art = 1, kind = "draw"', "multimodal.groups.0.art"),
        ('version = "1"', "version = 1", "checkpoint.version"),
        ("[llm]\nsteps = 1", '[llm]\nsteps = "many"', "llm.steps"),
        ("[llm]\nsteps = 1", "[llm]\nsteps = 0", "llm.steps"),
        ("[llm]\nsteps = 1", "[llm]", "llm.steps"),
        ("[llm]\nsteps = 1", "[llm]\nsteps = 1\nema_decay = 1.0", "llm.ema_decay"),
        ("[vae]\nsteps = 1\nbatch_size = 1", "[vae]\nsteps = 1\nbatch_size = 0", "vae.batch_size"),
        ('kind = "draw"', 'kind = "sing"', "multimodal.groups.0.kind"),
        (
            "max_tokens = 64 }]\n[multimodal]",
            "max_tokens = 64 }]\nalign_steps = 3\n[multimodal]",
            "understanding.align",
        ),
        ('[checkpoint]\nversion = "1"', "", "checkpoint"),
        ("batch_size = 8", "batch_size = 10", "encoder.batch_size 10"),
        ("[checkpoint]", '[export]\nencoder = ["onnx-f31"]\n[checkpoint]', "onnx-f31: known exports are onnx-f32"),
    ],
)
def test_wrong_values_are_named(old: str, new: str, named: str, tmp_path: Path) -> None:
    assert TOML.count(old) == 1
    with pytest.raises(InvalidArgument, match=re.escape(named)) as error:
        read(tmp_path, TOML.replace(old, new))
    assert str(tmp_path / "toy.toml") in str(error.value)


@pytest.mark.parametrize(
    ("stage", "changed", "named"),
    [
        ("llm", {"hidden_size": 33}, "llm.hidden_size 33"),
        ("llm", {"num_heads": 4, "num_key_value_heads": 3}, "llm.num_heads 4"),
        ("llm", {"max_model_len": 64, "max_tokens": 128}, "llm.max_tokens 128"),
        ("encoder", {"image_size": 40}, "encoder.image_size 40"),
        ("encoder", {"num_heads": 3}, "encoder.hidden_size 16"),
        ("llm", {"num_heads": 32, "num_key_value_heads": 32}, "llm.hidden_size 32 is no multiple of 64"),
        ("unet", {"num_heads": 17}, "unet.num_heads 17 is more than the 16 channels"),
        ("multimodal", {"head_hidden_size": 9}, "multimodal.head_hidden_size 9"),
    ],
)
def test_impossible_combinations_are_named(stage: str, changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(named)):
        tiny_recipe(**{stage: changed})


@pytest.mark.parametrize(
    ("stage", "changed"),
    [
        ("template", {"num_img_tokens": 0}),
        ("vae", {"block_out_channels": [10, 20]}),
        ("vae", {"block_out_channels": []}),
        ("vae", {"block_out_channels": [8] * 8}),
        ("vae", {"latent_channels": 0}),
        ("vae", {"learning_rate": float("inf")}),
        ("vae", {"kl_weight": float("nan")}),
        ("vae", {"gate": {"scenes_read": float("nan")}}),
        ("unet", {"block_out_channels": [8, 16]}),
        ("unet", {"num_heads": 0}),
        ("unet", {"layers_per_block": 0}),
        ("unet", {"conditioning_length": 1}),
        ("unet", {"conditioning_size": 6}),
        ("unet", {"text_layers": -1}),
        ("encoder", {"patch_size": 0}),
        ("encoder", {"hidden_size": 18}),
        ("encoder", {"num_layers": 0}),
        ("encoder", {"max_caption_tokens": 0}),
        ("llm", {"num_layers": -1}),
        ("llm", {"num_key_value_heads": 0}),
        ("llm", {"intermediate_size": 0}),
        ("multimodal", {"head_layers": 0}),
        ("multimodal", {"head_heads": 0}),
    ],
)
def test_sizes_that_no_model_has_are_named(stage: str, changed: dict[str, Any]) -> None:
    (key,) = changed
    with pytest.raises(ValidationError, match=rf"{stage}\.{key}"):
        tiny_recipe(**{stage: changed})


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a b"])
def test_names_are_those_of_folders(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        tiny_recipe(name=name)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (
            {"vae": {"gate": {"scenes_raed": 0.9}}},
            "vae.gate names scenes_raed, known are scenes_read, backgrounds_read",
        ),
        ({"encoder": {"num_crowds": 0, "gate": {"words_right": 0.9}}}, "encoder.gate names words_right"),
        ({"evaluate": {"gate": {"qestions": 0.9}}}, "evaluate.gate names qestions, known are questions, "),
        ({"evaluate": {"gate": {"questions: colours": 0.9}}}, "evaluate.gate names questions: colours"),
        ({"multimodal": {"groups": GROUPS[:1]}}, "multimodal.groups has none of draw, draw_crowd, edit, edit_crowd"),
        ({"multimodal": {"groups": GROUPS[-1:]}}, "multimodal.groups has none of draw"),
        ({"vae": {"distribution": {}}}, "vae.distribution: this stage trains in one process only"),
        ({"handover": {"distribution": {"num_processes": 2}}}, "handover.distribution: this stage trains in one"),
    ],
)
def test_what_a_later_stage_would_refuse_is_said_before_work(changed: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(complaint)):
        tiny_recipe(**changed).check()


def test_gates_of_every_figure_are_fine() -> None:
    figures = dict.fromkeys(
        ("answers_right", "draw_blocks_right", "draw_exact", "edit_blocks_right", "edit_exact"), 0.5
    )
    judged = {"questions": 0.9, "questions: colour": 0.5, "drawn scenes: task left to the model": 0.5}
    tiny_recipe(multimodal={"gate": figures}, evaluate={"gate": judged}).check()


def test_what_is_no_checkpoint_is_not_published_over(tmp_path: Path) -> None:
    recipe = tiny_recipe(out=str(tmp_path / "out"))
    recipe.check()
    recipe.out.mkdir()
    (recipe.out / "thesis.txt").touch()
    with pytest.raises(InvalidArgument, match=r"out .*/out exists and is no checkpoint"):
        recipe.check()
    (recipe.out / "system.json").touch()
    recipe.check()


@pytest.mark.parametrize("stage", ["understanding", "multimodal"])
def test_groups_longer_than_the_model(stage: str) -> None:
    group = {"kind": "draw", "batch_size": 1, "max_tokens": 2048}
    with pytest.raises(ValidationError, match=rf"{stage}\.groups.*2048"):
        tiny_recipe(**{stage: {"groups": [group]}})


def test_questions_alone_are_a_mix_and_nothing_is_not() -> None:
    group = {"kind": "ask", "batch_size": 1, "max_tokens": 128}
    assert tiny_recipe(multimodal={"groups": [group]}).multimodal.groups[0].kind == "ask"
    with pytest.raises(ValidationError, match=r"multimodal\.groups"):
        tiny_recipe(multimodal={"groups": []})


def test_no_toml_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"toy\.toml: "):
        read(tmp_path, "name = ")
    (tmp_path / "toy.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(InvalidArgument, match=r"toy\.toml: "):
        Recipe.read(tmp_path / "toy.toml")
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(InvalidArgument, match=str(path)):
            Recipe.read(path)


def test_recipes_cannot_be_changed(tmp_path: Path) -> None:
    recipe = read(tmp_path, TOML)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(recipe.llm, "steps", 9)  # noqa: B010 - mypy knows better than to let it stand plainly


def test_digest_follows_the_named_stages() -> None:
    recipe = tiny_recipe()
    assert re.fullmatch("[0-9a-f]{16}", recipe.digest("llm"))
    assert recipe.digest("llm", "vae") == tiny_recipe().digest("vae", "llm")
    changed = tiny_recipe(llm={"steps": 5})
    assert changed.digest("llm") != recipe.digest("llm")
    assert changed.digest("vae", "llm") != recipe.digest("vae", "llm")
    assert changed.digest("vae", "unet") == recipe.digest("vae", "unet")


def test_digest_follows_seed_and_template() -> None:
    recipe = tiny_recipe()
    for changed in (tiny_recipe(seed=1), tiny_recipe(template={"num_img_tokens": 5})):
        assert changed.digest("vae") != recipe.digest("vae")


def test_digest_ignores_where_and_how_fast() -> None:
    recipe = tiny_recipe()
    moved = tiny_recipe(out="elsewhere", runs="others", name="other", compile=True)
    assert moved.digest("vae", "llm", "multimodal") == recipe.digest("vae", "llm", "multimodal")
