"""`python -m services.trainer` of a recipe that ends with its first trained stage: for tests that compare weights."""

import argparse
import sys
from pathlib import Path

from services.trainer.config import Recipe
from services.trainer.pipeline import run_stages
from services.trainer.progress import Lines

STAGE = "vae"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.task == "train":
        run_stages(Recipe.read(args.recipe), args.recipe, [STAGE], 1, Lines())
    return 0


if __name__ == "__main__":
    sys.exit(main())
