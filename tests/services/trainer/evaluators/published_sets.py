"""Data sets in the files as they are published, a few records each, with pictures of Blocks."""

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import Block, Scene

RED = Scene((Block("circle", "red", "large", 4),), "white")
BLUE = Scene((Block("circle", "blue", "large", 4),), "white")


def png(scene: Scene) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(render(scene, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_vqa(folder: Path, **changed: Any) -> Path:
    """VQAv2's two files, and its picture names."""
    pictures = folder / "val2014"
    pictures.mkdir(parents=True)
    (pictures / "COCO_val2014_000000000042.png").write_bytes(png(RED))
    question = {"image_id": 42, "question": "What color is the circle?", "question_id": 42000}
    questions = {"data_type": "mscoco", "data_subtype": "val2014", "questions": [question | changed]}
    answers = [{"answer": "red", "answer_confidence": "yes", "answer_id": number} for number in range(1, 10)]
    annotation = {
        "question_id": 42000,
        "image_id": 42,
        "answer_type": "other",
        "question_type": "what color is the",
        "multiple_choice_answer": "red",
        "answers": [*answers, {"answer": "crimson", "answer_confidence": "maybe", "answer_id": 10}],
    }
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps(questions))
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": [annotation]}))
    return folder


def write_mmbench(folder: Path) -> Path:
    """Two questions, the second with the first one's picture; then their rotations, which published files hold too."""
    folder.mkdir(parents=True)
    picture = base64.b64encode(png(RED)).decode()
    columns = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source", "split")
    rows = [
        ("7", "What shape is it?", "", "circle", "square", "", "", "A", "shapes", picture, "own", "dev"),
        ("8", "Which color?", "Look\nclosely.", "green", "blue", "red", "", "C", "colors", "7", "own", "dev"),
    ]
    rows += [
        ("1000007", "What shape is it?", "", "square", "circle", "", "", "B", "shapes", "7", "own", "dev"),
        ("1000008", "Which color?", "Look\nclosely.", "blue", "red", "green", "", "B", "colors", "7", "own", "dev"),
        ("2000008", "Which color?", "Look\nclosely.", "red", "green", "blue", "", "A", "colors", "7", "own", "dev"),
    ]
    lines = ["\t".join(columns), *("\t".join(_quoted(field) for field in row) for row in rows)]
    (folder / "mmbench_dev.tsv").write_text("\n".join(lines) + "\n")
    return folder


def _quoted(field: str) -> str:
    return f'"{field}"' if "\n" in field else field


def write_edits(folder: Path) -> Path:
    """The Image Editing Request data's list."""
    (folder / "images").mkdir(parents=True)
    for name, scene in (("before.png", RED), ("after.png", BLUE)):
        (folder / "images" / name).write_bytes(png(scene))
    row = {"uid": "a", "img0": "before.png", "img1": "after.png", "sents": ["make it blue", "change red to blue"]}
    (folder / "valid.json").write_text(json.dumps([row]))
    return folder
