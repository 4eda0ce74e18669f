"""Questions about documents and charts, each set in its published form."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.documents import LETTER, READ, SHORT, DocumentsSource
from tests.services.trainer.data.published import write, write_docvqa
from triptych.errors import InvalidArgument
from triptych.prompts import Picture


def source(path: Path, form: str) -> DocumentsSource:
    settings = {"name": "d", "group": "g", "path": path, "images": path.parent, "format": form}
    return DocumentsSource(DocumentsSource.Config.model_validate(settings), 0)


def records(path: Path, form: str) -> list[Record]:
    made = source(path, form)
    made.check()
    return [made.record(entry, i) for i, entry in enumerate(made.entries())]


def told(record: Record) -> tuple[str, tuple[str, ...], object, object]:
    assert record.task == "understand"
    user, assistant = record.messages
    assert user.contents[0] == Picture(0)
    return record.id, record.pictures, user.contents[1], assistant.contents[0]


def test_docvqa(tmp_path: Path) -> None:
    path = Path(write_docvqa(tmp_path, 4)["path"])
    data = json.loads(path.read_text())["data"]
    made = records(path, "docvqa")
    assert [told(r) for r in made] == [
        (str(q["questionId"]), (q["image"],), f"{q['question']}\n{SHORT}", q["answers"][0]) for q in data
    ]
    assert made[0].added == (SHORT,)


def test_chartqa(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"imgname": "two_col_1.png", "query": "How many bars?", "label": "4"}])
    assert [told(r) for r in records(path, "chartqa")] == [("0", ("two_col_1.png",), f"How many bars?\n{SHORT}", "4")]


def test_dvqa(tmp_path: Path) -> None:
    entry = {"question": "Is it?", "question_id": 17, "template_id": "data", "answer": "no", "image": "bar_1.png"}
    path = write(tmp_path / "train_qa.json", [{**entry, "answer_bbox": []}, {**entry, "answer": 6}])
    assert [told(r)[3] for r in records(path, "dvqa")] == ["no", "6"]


def test_lrv(tmp_path: Path) -> None:
    entries = [{"image_id": "4", "question": "Is there a bus?", "answer": "No, there is none.", "task": "existence"}]
    entries += [{**entries[0], "image_id": "two_col_5.png"}, {**entries[0], "image_id": 6}]  # type: ignore[dict-item]
    made = records(write(tmp_path / "filter_cap1.json", entries), "lrv")
    assert [r.pictures for r in made] == [("4.jpg",), ("two_col_5.png",), ("6.jpg",)]
    assert told(made[0])[2:] == ("Is there a bus?", "No, there is none.")
    assert made[0].added == ()


def test_ai2d(tmp_path: Path) -> None:
    folder = tmp_path / "questions"
    question = {"abcLabel": False, "answerTexts": ["the sun", "rain"], "correctAnswer": 1, "questionId": "0.png-0"}
    lettered = {**question, "abcLabel": True, "correctAnswer": 0, "questionId": "0.png-1"}
    write(folder / "0.png.json", {"questions": {"What falls?": question, "What is A?": lettered}, "imageName": "0.png"})
    made = records(folder, "ai2d")
    assert [told(r) for r in made] == [
        ("0.png-0", ("images/0.png",), f"What falls?\nA. the sun\nB. rain\n{LETTER}", "B"),
        ("0.png-1", ("abc_images/0.png",), f"What is A?\nA. the sun\nB. rain\n{LETTER}", "A"),
    ]


def test_synthdog(tmp_path: Path) -> None:
    path = tmp_path / "metadata.jsonl"
    truth = json.dumps({"gt_parse": {"text_sequence": "once upon a time"}})
    path.write_text(json.dumps({"file_name": "image_0.jpg", "ground_truth": truth}) + "\n")
    assert [told(r) for r in records(path, "synthdog")] == [("0", ("image_0.jpg",), READ, "once upon a time")]


BAD: list[tuple[str, Any, str]] = [
    ("docvqa", {"questionId": 1, "question": "q", "image": "a.png", "answers": []}, "malformed"),
    ("docvqa", {"questionId": 1, "question": "q", "image": "a.png"}, "malformed"),
    ("docvqa", {"questionId": 1, "question": " ", "image": "a.png", "answers": ["x"]}, "empty text"),
    ("chartqa", {"imgname": "a.png", "query": "q", "label": None}, "malformed"),
    ("chartqa", {"imgname": "a.png", "query": "q", "label": " "}, "empty text"),
    ("dvqa", "text", "malformed"),
    ("ai2d", "0.png.json", "malformed"),
    ("ai2d", {"imageName": "a", "text": "q", "question": {"answerTexts": ["x"], "correctAnswer": 1}}, "malformed"),
    ("synthdog", {"file_name": "a.jpg", "ground_truth": "{"}, "malformed"),
    ("synthdog", {"file_name": "a.jpg", "ground_truth": "[]"}, "malformed"),
    ("synthdog", {"file_name": "a.jpg", "ground_truth": "1" * 5000}, "malformed"),
    ("synthdog", {"file_name": "a.jpg", "ground_truth": "[" * 100_000}, "malformed"),
]


@pytest.mark.parametrize(("form", "entry", "reason"), BAD)
def test_bad_entries(tmp_path: Path, form: str, entry: Any, reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        source(tmp_path / "a.json", form).record(entry, 0)
    assert caught.value.reason == reason


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no list under 'data'"):
        source(write(tmp_path / "a.json", {"x": 1}), "docvqa").check()
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(InvalidArgument, match=r"b\.json"):
        source(tmp_path / "b.json", "docvqa").check()
