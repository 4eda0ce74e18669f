"""Questions about documents, charts and diagrams, in the form each set is published in; one record for each question.

docvqa  `{"data": [{questionId, question, image, answers}]}`; of several answers the first, as its authors advise
chartqa `[{imgname, query, label}]`
lrv     LRV-Instruction's `[{image_id, question, answer}]`; without an ending, `image_id` is a .jpg; answers are
sentences dvqa    `[{image, question, answer, question_id}]`
ai2d    a folder of `{"imageName", "questions": {text: {answerTexts, correctAnswer, abcLabel, questionId}}}`
synthdog JSON lines `{file_name, ground_truth}`, the latter JSON text with `gt_parse.text_sequence`: the page is read
out
"""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.base import NO_JSON, Source, SourceConfig, first_of, id_of, json_value, text_of
from services.trainer.data.sources.json_list import json_entries
from triptych.errors import InvalidArgument
from triptych.prompts import Message, Picture

# What the reader says of its own: LLaVA-1.5's forms of short and of lettered answers, and a request to read aloud.
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
READ = "Read the text in the image."
Format = Literal["docvqa", "chartqa", "dvqa", "lrv", "ai2d", "synthdog"]
KEYS: dict[Format, tuple[str, str, str, str]] = {  # picture, question, answer, id
    "docvqa": ("image", "question", "answers", "questionId"),
    "chartqa": ("imgname", "query", "label", "id"),
    "dvqa": ("image", "question", "answer", "question_id"),
    "lrv": ("image_id", "question", "answer", "id"),
}


class DocumentsSource(Source):
    """`path`: the JSON file (for ai2d, the folder `questions`); `images`: the folder its picture names are relative to
    (for ai2d, the one that holds `images` and, for questions about lettered parts, `abc_images`).
    """

    class Config(SourceConfig):
        type: Literal["documents"] = "documents"
        format: Format
        images: Path

    config: Config

    @property
    def pictures(self) -> Path:
        return self.config.images

    def entries(self) -> Iterator[Any]:
        if self.config.format == "ai2d":
            return self._ai2d_questions()
        if self.config.format == "docvqa":
            return self._docvqa_questions()
        return json_entries(self.config.path)

    def _docvqa_questions(self) -> Iterator[Any]:
        values = json_value(self.config.path)
        data = values.get("data") if isinstance(values, dict) else values
        if not isinstance(data, list):
            raise InvalidArgument(f"{self.config.path}: no list under 'data'")
        return iter(data)

    def _ai2d_questions(self) -> Iterator[Any]:
        for path in sorted(self.config.path.glob("*.json")):
            values = json_value(path)
            questions = values.get("questions") if isinstance(values, dict) else None
            if not isinstance(questions, dict):
                yield path.name  # refused as a record
                continue
            for text, question in questions.items():
                yield {"imageName": values.get("imageName"), "text": text, "question": question}

    def record(self, entry: Any, position: int) -> Record:
        if self.config.format == "ai2d":
            return self._ai2d(entry, position)
        if self.config.format == "synthdog":
            return _ask(str(position), text_of(entry, "file_name"), None, _sequence(entry), READ)
        picture, question, answer, key = KEYS[self.config.format]
        name, said = id_of(entry, position, key), first_of(entry, answer)
        asked = text_of(entry, question)
        if self.config.format == "lrv":
            path = str(first_of(entry, picture))
            return _ask(name, path if PurePosixPath(path).suffix else f"{path}.jpg", asked, said, "")
        return _ask(name, text_of(entry, picture), asked, said, SHORT)

    def _ai2d(self, entry: Any, position: int) -> Record:
        name, text = text_of(entry, "imageName"), text_of(entry, "text")
        question = entry["question"]
        choices = question.get("answerTexts") if isinstance(question, dict) else None
        right = question.get("correctAnswer") if isinstance(question, dict) else None
        if not isinstance(choices, list) or not isinstance(right, int) or not 0 <= right < len(choices):
            raise BadRecord("malformed", "no choices, or no right one among them")
        listed = "\n".join(f"{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(choices))
        path = f"abc_images/{name}" if question.get("abcLabel") else f"images/{name}"
        made = id_of(question, position, "questionId")
        return _ask(made, path, f"{text}\n{listed}", chr(ord("A") + right), LETTER)


def _ask(name: str, picture: str, question: str | None, answer: str, form: str) -> Record:
    """`form`: what the reader says of its own, in place of a question where there is None."""
    if question is not None and not question.strip():
        raise BadRecord("empty text", "the question")
    asked = "\n".join(part.strip() for part in (question, form) if part)
    messages = (Message("user", (Picture(0), asked)), Message("assistant", (answer.strip(),)))
    made = Record(name, "understand", messages, (picture,), added=(form,) if form else ())
    made.check()
    return made


def _sequence(entry: Any) -> str:
    try:
        return text_of(json.loads(text_of(entry, "ground_truth")).get("gt_parse"), "text_sequence")
    except (AttributeError, *NO_JSON):
        raise BadRecord("malformed", "ground_truth is no JSON with gt_parse") from None
