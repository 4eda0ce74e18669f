"""Blocks pictures drawn from a text, judged by the scene reader."""

import random
from typing import ClassVar

from services.trainer.data.blocks.conversations import draw_turn
from services.trainer.data.blocks.render import render
from services.trainer.evaluators.base import Example, Outcome, png
from services.trainer.evaluators.blocks import NOTHING, BlocksEvaluator, drawn
from triptych.models.unified import UnifiedModel


class BlocksDrawings(BlocksEvaluator):
    """One drawing a scene."""

    title = "Drawings of Blocks"
    draws: ClassVar[bool] = True

    def judge_scene(self, model: UnifiedModel, number: int) -> Outcome:
        turn = draw_turn(random.Random(f"evaluate/draw/{number}"), "held_out")
        assert turn.result is not None
        task = self.task_of(number, "generate")
        picture, verdict = drawn(self.respond(model, task, (turn.text,), [], number), turn.result)
        num_right = verdict.num_right if verdict else 0
        exact = verdict is not None and verdict.exact
        scores = [("drawn blocks (shape, colour and cell)", i < num_right) for i in range(len(turn.result.blocks))]
        scores.append(("drawn scenes (every block, none extra)", exact))
        if task == "auto":
            scores.append(("drawn scenes: task left to the model", exact))
        parts = (
            ("text", turn.text),
            ("drawn", NOTHING if picture is None else png(picture)),
            ("for example", png(render(turn.result, number))),
        )
        return Outcome(tuple(scores), Example(float(exact), parts))
