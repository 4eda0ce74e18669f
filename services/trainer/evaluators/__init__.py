"""What a model can be measured by. A new evaluator is one file and one row."""

from services.trainer.data.blocks.questions import KINDS
from triptych.registry import Registry

EVALUATORS = Registry(
    "evaluator",
    {
        "blocks-questions": "services.trainer.evaluators.blocks_questions:BlocksQuestions",
        "blocks-drawings": "services.trainer.evaluators.blocks_drawings:BlocksDrawings",
        "blocks-edits": "services.trainer.evaluators.blocks_edits:BlocksEdits",
        "vqa": "services.trainer.evaluators.vqa:Vqa",
        "multiple-choice": "services.trainer.evaluators.multiple_choice:MultipleChoice",
        "edit-similarity": "services.trainer.evaluators.edit_similarity:EditSimilarity",
    },
)
BLOCKS = ("blocks-questions", "blocks-drawings", "blocks-edits")  # need no data: the world makes it
# What each reports, for gates that are checked before anything can be loaded; "*": of kinds that the data have.
REPORTED: dict[str, tuple[str, ...]] = {
    "blocks-questions": ("questions", *(f"questions: {kind}" for kind in KINDS), "questions: task left to the model"),
    "blocks-drawings": (
        "drawn blocks (shape, colour and cell)",
        "drawn scenes (every block, none extra)",
        "drawn scenes: task left to the model",
    ),
    "blocks-edits": (
        "edits (every block, none extra)",
        "edits: background kept",
        "edits: sizes right too",
        "edits: task left to the model",
    ),
    "vqa": ("VQA accuracy", "VQA, as most people say", "VQA accuracy: *"),
    "multiple-choice": (
        "multiple choice, in every order",
        "multiple choice, in the given order",
        "multiple choice, in every order: *",
    ),
    "edit-similarity": (
        "edits: L1 to the wanted picture",
        "edits: L1 to the wanted picture, nothing changed",
        "edits: cosine to the wanted picture",
        "edits: cosine to the wanted picture, nothing changed",
    ),
}
