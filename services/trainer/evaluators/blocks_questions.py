"""Questions about Blocks pictures: the answer must equal the right one."""

import random
from typing import ClassVar

from PIL import Image

from services.trainer.data.blocks.questions import ask
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import sample_scene
from services.trainer.evaluators.base import Example, Outcome, png
from services.trainer.evaluators.blocks import BlocksEvaluator
from triptych.models.unified import UnifiedModel
from triptych.prompts import Picture


class BlocksQuestions(BlocksEvaluator):
    """Questions of all kinds, one per picture, and twice as many as scenes: they are cheap."""

    title = "Questions about Blocks"
    items_a_scene: ClassVar[int] = 2

    def judge_scene(self, model: UnifiedModel, number: int) -> Outcome:
        rng = random.Random(f"evaluate/ask/{number}")
        scene = sample_scene(rng, "held_out")
        question = ask(scene, rng)
        picture = Image.fromarray(render(scene, number))
        task = self.task_of(number, "understand")
        reply = self.respond(model, task, (Picture(0), question.text), [picture], number)
        right = reply.text == question.answer and not reply.pictures
        scores = [("questions", right), (f"questions: {question.kind}", right)]
        if task == "auto":
            scores.append(("questions: task left to the model", right))
        said = reply.text + " (and a picture)" * bool(reply.pictures)
        parts = (("picture", png(picture)), ("question", question.text), ("answer", said), ("wanted", question.answer))
        return Outcome(tuple(scores), Example(float(right), parts))
