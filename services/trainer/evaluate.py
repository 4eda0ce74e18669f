"""Held-out figures of a checkpoint on Blocks: `python -m services.trainer.evaluate CHECKPOINT [--json FILE]`.

Every scene holds a shape-colour-cell combination that training never saw. Answers must equal the right one, drawings
and edits are judged by the scene reader; the model runs as it is served, greedily and token by token.
"""

import argparse
import json
import math
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from services.trainer.data.blocks.conversations import draw_turn, edit_turn
from services.trainer.data.blocks.questions import ask
from services.trainer.data.blocks.reader import judge
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import Scene, sample_scene
from triptych.card import read_card
from triptych.errors import TriptychError
from triptych.models.unified import Reply, UnifiedModel
from triptych.prompts import Message, Picture, Task

AUTO_EVERY = 3  # every third request leaves the task to the model


@dataclass(frozen=True)
class Share:
    """How many of how many, with Wilson's 95 % interval."""

    right: int
    of: int

    @property
    def value(self) -> float:
        return self.right / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        z2, n = 1.96**2, self.of
        middle = (self.value + z2 / (2 * n)) / (1 + z2 / n)
        half = 1.96 * math.sqrt(self.value * (1 - self.value) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        return middle - half, middle + half


Figures = Iterator[tuple[str, bool]]


class Evaluator:
    """Asks a model about the held-out world; every method yields (figure, right or not)."""

    def __init__(self, model: UnifiedModel, num_scenes: int, num_inference_steps: int, guidance_scale: float) -> None:
        self.model, self.num_scenes = model, num_scenes
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale

    def questions(self) -> Figures:
        """Twice `num_scenes` questions of all kinds, one per picture: they are cheap."""
        for index in range(2 * self.num_scenes):
            rng = random.Random(f"evaluate/ask/{index}")
            scene = sample_scene(rng, "held_out")
            question = ask(scene, rng)
            reply, auto = self._respond((Picture(0), question.text), "understand", scene, index)
            right = reply.text == question.answer and not reply.pictures
            yield "questions", right
            yield f"questions: {question.kind}", right
            if auto:
                yield "questions: task left to the model", right

    def drawings(self) -> Figures:
        """`num_scenes` drawings from a text."""
        for index in range(self.num_scenes):
            turn = draw_turn(random.Random(f"evaluate/draw/{index}"), "held_out")
            assert turn.result is not None
            reply, auto = self._respond((turn.text,), "generate", None, index)
            verdict = judge(reply.pictures[0], turn.result) if reply.pictures else None
            for number in range(len(turn.result.blocks)):
                yield "drawn blocks (shape, colour and cell)", verdict is not None and number < verdict.num_right
            exact = verdict is not None and verdict.exact
            yield "drawn scenes (every block, none extra)", exact
            if auto:
                yield "drawn scenes: task left to the model", exact

    def edits(self) -> Figures:
        """`num_scenes` edits of a picture."""
        for index in range(self.num_scenes):
            turn = edit_turn(random.Random(f"evaluate/edit/{index}"), "held_out")
            assert turn.picture is not None
            assert turn.result is not None
            reply, auto = self._respond((Picture(0), turn.text), "edit", turn.picture, index)
            verdict = judge(reply.pictures[0], turn.result) if reply.pictures else None
            exact = verdict is not None and verdict.exact
            yield "edits (every block, none extra)", exact
            yield "edits: sizes right too", exact and verdict is not None and verdict.size_right == verdict.num_blocks
            yield "edits: background kept", verdict is not None and verdict.background_right
            if auto:
                yield "edits: task left to the model", exact

    def _respond(
        self, contents: tuple[str | Picture, ...], task: Task, scene: Scene | None, index: int
    ) -> tuple[Reply, bool]:
        """The reply, and whether the task was left to the model."""
        auto = index % AUTO_EVERY == 0
        reply = self.model.respond(
            [Message("user", contents)],
            ["auto" if auto else task],
            [Image.fromarray(render(scene, index))] if scene else [],
            seed=index,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
        )
        return reply, auto


def evaluate_checkpoint(
    checkpoint: Path, num_scenes: int, report: Callable[[dict[str, float]], None]
) -> dict[str, Share]:
    """All figures of a checkpoint, at its own default steps and guidance."""
    facts = read_card(checkpoint / "decoder").facts
    steps, guidance = facts["default_num_inference_steps"], facts["default_guidance_scale"]
    evaluator = Evaluator(UnifiedModel.load(checkpoint), num_scenes, steps, guidance)
    counts: dict[str, Share] = {}
    for number, part in enumerate((evaluator.questions(), evaluator.drawings(), evaluator.edits()), start=1):
        for name, right in part:
            old = counts.get(name, Share(0, 0))
            counts[name] = Share(old.right + right, old.of + 1)
        report({"step": number, "steps": 3})
    return counts


def to_markdown(shares: dict[str, Share]) -> str:
    """A table, main figures first."""
    rows = ["| figure | right | of | share | 95 % interval |", "|---|---|---|---|---|"]
    for name in sorted(shares):
        share, (low, high) = shares[name], shares[name].interval
        rows.append(f"| {name} | {share.right} | {share.of} | {share.value:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(rows) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m services.trainer.evaluate", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="the checkpoint folder")
    parser.add_argument("--num-scenes", type=int, default=300, help="drawings and edits; questions are twice as many")
    parser.add_argument("--json", type=Path, help="also write the counts to this file")
    args = parser.parse_args(argv)
    torch.use_deterministic_algorithms(True)
    try:
        shares = evaluate_checkpoint(args.checkpoint, args.num_scenes, lambda figures: None)
    except TriptychError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(to_markdown(shares), end="")
    if args.json:
        args.json.write_text(json.dumps({name: [s.right, s.of] for name, s in shares.items()}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
