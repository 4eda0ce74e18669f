"""`python -m services.trainer` with a toy for its only stage: the real training loop, its states and its resuming."""

import argparse
import json
import sys
import time
import tomllib
from pathlib import Path

STEPS = 100
STEP_S = 0.03


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    recipe = tomllib.loads(args.recipe.read_text())
    folder = Path(recipe["runs"]) / recipe["name"] / "toy"
    if args.task == "train" and not (folder / "done.json").exists():
        train(folder)
    return 0


def train(folder: Path) -> None:
    """Slowly enough to be killed within."""
    from services.trainer.train import train_stage  # torch, which the other tasks do without
    from tests.services.trainer.toy import Toy

    def report(figures: dict[str, float]) -> None:
        sys.stdout.write(json.dumps({"stage": "toy", **figures}) + "\n")
        sys.stdout.flush()

    class SlowToy(Toy):
        def backward(self, step):  # type: ignore[no-untyped-def]
            time.sleep(STEP_S)
            return super().backward(step)

    train_stage(SlowToy(steps=STEPS, save_every=7, evaluate_every=STEPS), folder, "0", report)


if __name__ == "__main__":
    sys.exit(main())
