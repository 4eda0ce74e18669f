"""VQA in the files of visualqa.org: one `*questions.json`, one `*annotations.json`, and the pictures, in one folder."""

from pathlib import Path
from typing import Any, ClassVar

from services.trainer.evaluators.answers import normalise, vqa_accuracy
from services.trainer.evaluators.base import Evaluator, Example, Outcome, Settings, png
from services.trainer.evaluators.published import one_file, open_picture, picture_paths, read_list, value
from triptych.errors import InvalidArgument
from triptych.models.unified import UnifiedModel
from triptych.prompts import Picture

BRIEFLY = "\nAnswer the question using a single word or phrase."  # LLaVA-1.5's words for it


class Vqa(Evaluator):
    """VQAv2 (Goyal et al. 2017), and what is kept in its form: the soft accuracy over ten people's answers, and how
    often the answer is the one most of them gave."""

    title = "Visual questions"
    bar: ClassVar[float | None] = 0.5

    def __init__(self, settings: Settings, data: Path | None) -> None:
        super().__init__(settings, data)
        self.path = one_file(self.folder, "*questions.json")
        self.questions = read_list(self.path, "questions")
        self.answers = one_file(self.folder, "*annotations.json")
        rows = read_list(self.answers, "annotations")
        self.annotations = {value(self.answers, row, "question_id", (int, str)): row for row in rows}
        self.pictures = picture_paths(self.folder)

    def __len__(self) -> int:
        return self.at_most(len(self.questions))

    def check(self) -> None:
        for asked in self.questions[: len(self)]:
            value(self.path, asked, "question", str)
            self._picture(asked)
            self._wanted(asked)

    def judge(self, model: UnifiedModel, index: int) -> Outcome:
        asked = self.questions[index]
        text = value(self.path, asked, "question", str)
        picture = open_picture(self._picture(asked), str(asked["image_id"]))
        how = "" if self.settings.plain_questions else BRIEFLY
        reply = self.respond(model, "understand", (Picture(0), text + how), [picture])
        common, people, kind = self._wanted(asked)
        score = vqa_accuracy(reply.text, people)
        exact = normalise(reply.text) == normalise(common)
        scores: list[tuple[str, bool | float]] = [("VQA accuracy", score), ("VQA, as most people say", exact)]
        if kind:
            scores.append((f"VQA accuracy: {kind}", score))
        wanted = ", ".join(dict.fromkeys((common, *people)))
        parts = (("picture", png(picture)), ("question", text), ("answer", reply.text), ("wanted", wanted))
        return Outcome(tuple(scores), Example(score, parts))

    def _picture(self, asked: dict[str, Any]) -> Path:
        number = value(self.path, asked, "image_id", int)
        if number not in self.pictures:
            raise InvalidArgument(f"{self.folder}: no picture's name ends with {number}, which {self.path.name} names")
        return self.pictures[number]

    def _wanted(self, asked: dict[str, Any]) -> tuple[str, list[str], str]:
        """The commonest answer, everybody's, and the answer's kind."""
        number = value(self.path, asked, "question_id", (int, str))
        if number not in self.annotations:
            raise InvalidArgument(f"{self.folder}: question {number} has no annotation")
        row = self.annotations[number]
        common = value(self.answers, row, "multiple_choice_answer", str)
        people = [value(self.answers, one, "answer", str) for one in value(self.answers, row, "answers", list)]
        if not people:
            raise InvalidArgument(f"{self.folder}: question {number} has no answers")
        return common, people, str(row.get("answer_type", ""))
