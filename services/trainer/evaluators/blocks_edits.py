"""Blocks pictures edited by instruction, judged by the scene reader."""

import random
from typing import ClassVar

from PIL import Image

from services.trainer.data.blocks.conversations import edit_turn
from services.trainer.data.blocks.render import render
from services.trainer.evaluators.base import Example, Outcome, png
from services.trainer.evaluators.blocks import NOTHING, BlocksEvaluator, drawn
from triptych.models.unified import UnifiedModel
from triptych.prompts import Picture


class BlocksEdits(BlocksEvaluator):
    """One edit of a picture a scene."""

    title = "Edits of Blocks"
    draws: ClassVar[bool] = True

    def judge_scene(self, model: UnifiedModel, number: int) -> Outcome:
        turn = edit_turn(random.Random(f"evaluate/edit/{number}"), "held_out")
        assert turn.picture is not None
        assert turn.result is not None
        before = Image.fromarray(render(turn.picture, number))
        task = self.task_of(number, "edit")
        picture, verdict = drawn(self.respond(model, task, (Picture(0), turn.text), [before], number), turn.result)
        exact = verdict is not None and verdict.exact
        sizes_right = verdict is not None and verdict.exact and verdict.size_right == verdict.num_blocks
        scores = [
            ("edits (every block, none extra)", exact),
            ("edits: sizes right too", sizes_right),
            ("edits: background kept", verdict is not None and verdict.background_right),
        ]
        if task == "auto":
            scores.append(("edits: task left to the model", exact))
        parts = (
            ("before", png(before)),
            ("instruction", turn.text),
            ("after", NOTHING if picture is None else png(picture)),
            ("wanted", png(render(turn.result, number))),
        )
        return Outcome(tuple(scores), Example(float(exact), parts))
