"""Multiple choice in MMBench's file: one `*.tsv` with questions, options and base64 pictures."""

import base64
import binascii
import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from services.trainer.evaluators.base import Evaluator, Example, Outcome, Settings, png
from services.trainer.evaluators.published import one_file, open_picture
from triptych.errors import InvalidArgument
from triptych.models.unified import UnifiedModel
from triptych.prompts import Picture

LETTERS = "ABCDEFGH"
COLUMNS = ("index", "question", "answer", "A", "B", "image")
MAX_FIELD = 2**28  # a picture's base64 in one field
ROTATION = 1_000_000
MAX_REFERENCE = 20  # a shorter `image` is the index of the row that has the picture
SAID = re.compile(  # the letter, bare or marked ("(b)", "**B**"), with the option behind it or such words before it
    r"(?:(?:the\s+)?(?:correct\s+)?(?:answer|option)\b(?:\s+is)?:?\s*)?[(*]*([A-H])(?:[).:,*]|\s*$)", re.IGNORECASE
)
BY_LETTER = "\nAnswer with the option's letter from the given choices directly."  # LLaVA-1.5's words for it


class MultipleChoice(Evaluator):
    """MMBench (Liu et al. 2024): every question is asked with its options in every rotation, and is right only when
    all of them are answered right (their CircularEval). Letters are read from the reply, no judge is asked."""

    title = "Multiple choice"
    bar: ClassVar[float | None] = 1.0

    def __init__(self, settings: Settings, data: Path | None) -> None:
        super().__init__(settings, data)
        self.path = one_file(self.folder, "*.tsv")
        rows = _read(self.path)
        self.images = {row["index"]: row["image"] for row in rows}
        questions = _questions(rows)
        self.rows = questions[: self.at_most(len(questions))]

    def __len__(self) -> int:
        return len(self.rows)

    def check(self) -> None:
        for row in self.rows:
            self._options(row)
            self._base64(row)

    def judge(self, model: UnifiedModel, index: int) -> Outcome:
        row = self.rows[index]
        options, wanted = self._options(row)
        picture = self._picture(row)
        said: list[str] = []
        first = every = self._asked(model, row, options, wanted, picture, said)
        for turn in range(1, len(options)):
            turned = options[turn:] + options[:turn]
            every = every and self._asked(model, row, turned, (wanted - turn) % len(options), picture, said)
        scores = [("multiple choice, in every order", every), ("multiple choice, in the given order", first)]
        if row.get("category"):
            scores.append((f"multiple choice, in every order: {row['category']}", every))
        parts = (
            ("picture", png(picture)),
            ("question", _text(row, options)),
            ("answer", " | ".join(said)),
            ("wanted", f"{LETTERS[wanted]}. {options[wanted]}"),
        )
        return Outcome(tuple(scores), Example(float(every), parts))

    def _asked(
        self,
        model: UnifiedModel,
        row: dict[str, str],
        options: list[str],
        wanted: int,
        picture: Image.Image,
        said: list[str],
    ) -> bool:
        text = _text(row, options) + BY_LETTER * (not self.settings.plain_questions)
        reply = self.respond(model, "understand", (Picture(0), text), [picture]).text
        said.append(reply)
        return chosen(reply, options) == wanted

    def _options(self, row: dict[str, str]) -> tuple[list[str], int]:
        """Those there are, and which is right."""
        letters, answer = [letter for letter in LETTERS if row.get(letter)], row["answer"].strip()
        if answer not in letters:
            has = f"has the answer {row['answer']!r}, and options {', '.join(letters)}"
            raise InvalidArgument(f"{self.path}: question {row['index']} {has}")
        return [row[letter] for letter in letters], letters.index(answer)

    def _base64(self, row: dict[str, str]) -> str:
        image = row["image"]
        if len(image) <= MAX_REFERENCE:
            image = self.images.get(image, "")
        if len(image) <= MAX_REFERENCE:
            raise InvalidArgument(f"{self.path}: question {row['index']} has the picture of {row['image']!r}: none")
        return image

    def _picture(self, row: dict[str, str]) -> Image.Image:
        try:
            return open_picture(base64.b64decode(self._base64(row), validate=True), row["index"])
        except binascii.Error as error:
            raise InvalidArgument(f"{self.path}: picture of question {row['index']}: {error}") from None


def chosen(reply: str, options: list[str]) -> int | None:
    """The option that a reply means: a letter that stands first or is said to be the answer, alone or before a mark,
    or an option's own words."""
    text = reply.strip()
    if match := SAID.match(text):
        index = LETTERS.index(match[1].upper())
        return index if index < len(options) else None
    same = [index for index, option in enumerate(options) if option.strip().lower() == text.lower().rstrip(".")]
    return same[0] if len(same) == 1 else None


def _questions(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Without the rotations that published files hold too: rows whose index is the question's and so many millions."""
    found: dict[int | str, dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: int(row["index"]) // ROTATION if row["index"].isdecimal() else 0):
        index = row["index"]
        found.setdefault(int(index) % ROTATION if index.isdecimal() else index, row)
    return list(found.values())


def _text(row: dict[str, str], options: list[str]) -> str:
    listed = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([*([row["hint"]] if row.get("hint") else []), row["question"], *listed])


def _read(path: Path) -> list[dict[str, Any]]:
    """Raises InvalidArgument naming what the file lacks."""
    before = csv.field_size_limit(MAX_FIELD)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", restval="")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidArgument(f"{path}: {error}") from error
    finally:
        csv.field_size_limit(before)
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise InvalidArgument(f"{path}: columns {', '.join(missing)} are missing")
    if not rows:
        raise InvalidArgument(f"{path} is empty")
    index, times = Counter(row["index"] for row in rows).most_common(1)[0]
    if times > 1:
        raise InvalidArgument(f"{path}: the index {index!r} stands in {times} rows")
    return rows
