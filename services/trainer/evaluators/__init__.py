"""What a model can be measured by. A new evaluator is one file and one row."""

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
