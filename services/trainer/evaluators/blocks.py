"""What the evaluators of the Blocks world share: every scene holds a combination that training never saw."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.trainer.data.blocks.reader import Verdict, judge
from services.trainer.data.blocks.textures import PICTURE_SIZE
from services.trainer.data.blocks.world import Scene
from services.trainer.evaluators.base import Evaluator, Outcome
from triptych.models.unified import Reply, UnifiedModel
from triptych.prompts import Task

SIZE = (PICTURE_SIZE, PICTURE_SIZE)
NOTHING = "(no picture)"


class BlocksEvaluator(Evaluator):
    """`num_scenes` scenes of the seed; the model runs as it is served, greedily and token by token."""

    needs_data: ClassVar[bool] = False
    items_a_scene: ClassVar[int] = 1

    def __len__(self) -> int:
        return self.items_a_scene * self.settings.num_scenes

    def check(self) -> None:
        """The world makes its scenes: nothing can be wrong with them."""

    def judge(self, model: UnifiedModel, index: int) -> Outcome:
        return self.judge_scene(model, self.seeded(index))

    @abstractmethod
    def judge_scene(self, model: UnifiedModel, number: int) -> Outcome: ...

    def task_of(self, number: int, named: Task) -> Task:
        """The task a request names, which may be none."""
        every = self.settings.auto_every
        return "auto" if every and number % every == 0 else named


def drawn(reply: Reply, wanted: Scene) -> tuple[NDArray[np.uint8] | None, Verdict | None]:
    """The reply's first picture, read by the scene reader at the size of Blocks pictures."""
    if not reply.pictures:
        return None, None
    picture = Image.fromarray(reply.pictures[0])
    if picture.size != SIZE:
        picture = picture.resize(SIZE, Image.Resampling.BOX)
    return reply.pictures[0], judge(np.asarray(picture), wanted)
