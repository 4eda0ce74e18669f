"""`python -m services.trainer` with a toy for its only stage: the real training loop, its states and its resuming."""

import argparse
import json
import sys
import time
from pathlib import Path

from torch import Tensor

from services.trainer.config import Recipe
from services.trainer.train import train_stage
from tests.services.trainer.toy import Toy

STEPS = 100
STEP_S = 0.03


class SlowToy(Toy):
    """Slow enough to be killed within; its batches come from the step alone, as those of all stages do."""

    def backward(self, step: int) -> dict[str, Tensor]:
        time.sleep(STEP_S)
        return super().backward(step)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folder = Recipe.read(args.recipe).folder / "toy"
    if args.task == "train" and not (folder / "done.json").exists():
        toy = SlowToy(steps=STEPS, save_every=7, evaluate_every=STEPS)
        train_stage(toy, folder, "0", report)
    return 0


def report(figures: dict[str, float]) -> None:
    sys.stdout.write(json.dumps({"stage": "toy", **figures}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
