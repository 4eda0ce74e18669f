"""Every evaluator before a model of random weights: all rows of the table answer, and say what is wrong with data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from services.trainer.evaluate import evaluate_checkpoint
from services.trainer.evaluation import Evaluation
from services.trainer.evaluators import BLOCKS, EVALUATORS, REPORTED
from services.trainer.evaluators.base import Settings
from services.trainer.evaluators.edit_similarity import EditSimilarity
from services.trainer.evaluators.figures import Mean, Share
from services.trainer.evaluators.multiple_choice import MultipleChoice
from services.trainer.evaluators.panel import Job, evaluate
from services.trainer.evaluators.vqa import Vqa
from services.trainer.gate import check_names
from tests.services.trainer.evaluators.published_sets import write_edits, write_mmbench, write_vqa
from tests.tiny import write_tiny_checkpoint
from triptych.errors import InvalidArgument, TriptychError
from triptych.models.unified import Reply, UnifiedModel

WRITERS: dict[str, Callable[[Path], Path]] = {
    "vqa": write_vqa,
    "multiple-choice": write_mmbench,
    "edit-similarity": write_edits,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", max_model_len=512)


@pytest.mark.parametrize("name", sorted(set(EVALUATORS) - set(BLOCKS)))
def test_a_data_set_in_its_published_files(name: str, checkpoint: Path, tmp_path: Path) -> None:
    data = WRITERS[name](tmp_path / "data")
    evaluation = evaluate_checkpoint(checkpoint, (name,), data=((name, data),))
    result = evaluation.results[name]
    assert result.num_items in (1, 2)
    assert {figure.of for key, figure in result.figures.items() if ": " not in key or "edits" in key} == {
        result.num_items
    }
    assert evaluation.about["data"] == {name: str(data)}
    check_names("gate", result.figures, REPORTED[name])
    assert {figure for figure in REPORTED[name] if "*" not in figure} <= set(result.figures)


def test_dino_features_of_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    Dinov2Model(config).save_pretrained(tmp_path / "dino")
    edge = {"shortest_edge": 28}
    BitImageProcessor(size=edge, crop_size={"height": 28, "width": 28}).save_pretrained(tmp_path / "dino")
    data = (("edit-similarity", write_edits(tmp_path / "data")),)
    figures = evaluate_checkpoint(checkpoint, ("edit-similarity",), data=data, dino=tmp_path / "dino").figures
    untouched = figures["edits: DINO cosine to the wanted picture, nothing changed"]
    assert isinstance(untouched, Mean)
    assert -1 <= untouched.value < 1  # a red circle is no blue one
    assert figures["edits: L1 to the wanted picture, nothing changed"].value == pytest.approx(0.04, abs=0.04)


class Says(UnifiedModel):
    """Gives the same answer to every question."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def respond(self, *_: Any, **__: Any) -> Reply:
        return Reply(text=self.answer)


def test_vqa_scores_people_and_the_commonest_answer(checkpoint: Path, tmp_path: Path) -> None:
    evaluator = Vqa(Settings(num_inference_steps=1, guidance_scale=1.0), write_vqa(tmp_path / "data"))
    outcomes = {answer: dict(evaluator.judge(Says(answer), 0).scores) for answer in ("Red.", "crimson", "a cross")}
    assert outcomes["Red."] == {"VQA accuracy": 1.0, "VQA, as most people say": True, "VQA accuracy: other": 1.0}
    assert outcomes["crimson"]["VQA accuracy"] == pytest.approx(0.3)
    assert outcomes["a cross"]["VQA accuracy"] == 0.0


def test_a_choice_must_be_right_in_every_order(tmp_path: Path) -> None:
    evaluator = MultipleChoice(Settings(num_inference_steps=1, guidance_scale=1.0), write_mmbench(tmp_path / "data"))
    whole, given = "multiple choice, in every order", "multiple choice, in the given order"
    always_a, knows = (dict(evaluator.judge(Says(answer), 0).scores) for answer in ("A", "circle"))
    assert (always_a[given], always_a[whole]) == (True, False)
    assert (knows[given], knows[whole], knows[f"{whole}: shapes"]) == (True, True, True)
    assert dict(evaluator.judge(Says("red."), 1).scores)[whole]


def wanted_answers(evaluation: Evaluation) -> list[str | bytes]:
    gallery = evaluation.results["blocks-questions"].gallery
    return [shown for e in (*gallery.good, *gallery.bad) for caption, shown in e.parts if caption == "wanted"]


def test_processes_do_not_change_the_figures_but_seeds_do(checkpoint: Path, tmp_path: Path) -> None:
    alone, shared = (
        evaluate_checkpoint(checkpoint, num_scenes=2, num_processes=n, num_threads=1).to_dict() for n in (1, 2)
    )
    for result in (*alone["evaluators"].values(), *shared["evaluators"].values()):
        del result["seconds"]
    assert alone == shared
    other = evaluate_checkpoint(checkpoint, ("blocks-questions",), num_scenes=2, seed=1)
    first = evaluate_checkpoint(checkpoint, ("blocks-questions",), num_scenes=2)
    assert wanted_answers(first) != wanted_answers(other)


def test_a_model_without_decoder_answers_and_does_not_draw(checkpoint: Path, tmp_path: Path) -> None:
    looks = tmp_path / "looks"
    looks.mkdir()
    for kind in ("encoder", "llm"):
        (looks / kind).symlink_to(checkpoint / kind)
    figure = evaluate_checkpoint(looks, ("blocks-questions",), num_scenes=2).figures["questions"]
    assert isinstance(figure, Share)
    assert figure.of == 4
    with pytest.raises(InvalidArgument, match="no decoder"):
        evaluate_checkpoint(looks, ("blocks-drawings",), num_scenes=1)
    with pytest.raises(TriptychError, match="cannot draw"):
        UnifiedModel.load(looks).respond([], ["edit"], [])


def spoil_picture(folder: Path) -> None:
    next(folder.rglob("*.png")).write_bytes(b"nothing")


def spoil_exif(folder: Path) -> None:
    path = next(folder.rglob("*.png"))
    Image.open(path).save(path, exif=b"Exif\0\0garbagegarbage")


def spoil_annotations(folder: Path) -> None:
    next(folder.glob("*annotations.json")).write_text(json.dumps({"annotations": [{"question_id": 1}]}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_picture, "picture 42"),
        (spoil_exif, "picture 42: not a TIFF file"),
        (spoil_annotations, "question 42000 has no annotation"),
        (lambda folder: next(folder.glob("*questions.json")).write_text("[1]"), "questions is no list of objects"),
        (lambda folder: next(folder.glob("*questions.json")).unlink(), r"one \*questions.json, found: none"),
    ],
)
def test_bad_data_is_named(spoil: Callable[[Path], object], message: str, checkpoint: Path, tmp_path: Path) -> None:
    folder = write_vqa(tmp_path / "data")
    spoil(folder)
    with pytest.raises(InvalidArgument, match=message):
        evaluate_checkpoint(checkpoint, ("vqa",), data=(("vqa", folder),))


def change(pattern: str, old: str, new: str) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = next(folder.rglob(pattern))
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return changed


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("vqa", change("*questions.json", '"image_id": 42,', '"image_id": 43,'), "no picture's name ends with 43"),
        ("vqa", change("*questions.json", '"What color is the circle?"', "3"), "'question' is 3 in a record"),
        ("vqa", change("*annotations.json", '"question_id": 42000', '"question_id": [1]'), r"'question_id' is \[1\]"),
        (
            "vqa",
            change("*annotations.json", '"answers": [', '"answers": [3], "more": ['),
            r"annotations\.json: 'answer' is 3 in",
        ),
        ("multiple-choice", change("*.tsv", "\tC\tcolors", "\tBC\tcolors"), "question 8 has the answer 'BC'"),
        ("multiple-choice", change("*.tsv", "\tC\tcolors", "\tD\tcolors"), "answer 'D', and options A, B, C"),
        ("multiple-choice", change("*.tsv", "\tC\tcolors\t7", "\tC\tcolors\t9"), "question 8 has the picture of '9'"),
        ("multiple-choice", change("*.tsv", "\n8\t", "\n7\t"), "the index '7' stands in 2 rows"),
        ("edit-similarity", lambda folder: next(folder.rglob("after.png")).unlink(), "after.png does not exist"),
        ("edit-similarity", change("*.json", '"sents": [', '"sents": [], "more": ['), "record 0 has no sents"),
        ("edit-similarity", change("*.json", '"before.png"', '"../before.png"'), "outside its folder"),
    ],
)
def test_a_bad_record_is_named_before_any_is_asked_about(
    name: str, spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = WRITERS[name](tmp_path / "data")
    spoil(folder)
    (tmp_path / "checkpoint/decoder").mkdir(parents=True)  # all there is of it: nothing can be asked
    settings = Settings(num_inference_steps=1, guidance_scale=1.0)
    with pytest.raises(InvalidArgument, match=message):
        evaluate(Job(tmp_path / "checkpoint", (name,), settings, ((name, folder),)), 1, lambda _: None)


def test_records_that_are_not_asked_about_may_be_bad(tmp_path: Path) -> None:
    folder = write_mmbench(tmp_path / "data")
    change("*.tsv", "\tC\tcolors", "\tE\tcolors")(folder)
    MultipleChoice(Settings(num_records=1, num_inference_steps=1, guidance_scale=1.0), folder).check()


def test_options_with_a_gap(tmp_path: Path) -> None:
    folder = write_mmbench(tmp_path / "data")
    change("*.tsv", "\tsquare\t\t\tA", "\tsquare\t\ttriangle\tD")(folder)
    evaluator = MultipleChoice(Settings(num_inference_steps=1, guidance_scale=1.0), folder)
    assert dict(evaluator.judge(Says("triangle"), 0).scores)["multiple choice, in every order"]


def test_dino_that_cannot_be_read(tmp_path: Path) -> None:
    Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path / "dino")
    (tmp_path / "dino/model.safetensors").write_bytes(b"half")
    settings = Settings(num_inference_steps=1, guidance_scale=1.0, dino=tmp_path / "dino")
    with pytest.raises(InvalidArgument, match="dino: "):
        EditSimilarity(settings, write_edits(tmp_path / "data")).check()
