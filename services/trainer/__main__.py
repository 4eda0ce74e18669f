"""`python -m services.trainer RECIPE.toml`: trains a recipe on this machine, without a broker.

Stages that do not need each other run side by side, each in a process of its own (on two cores that beats two threads
in one). Stop it whenever you like: the same command goes on where it was.
"""

import argparse
import signal
import sys
from pathlib import Path

from services.trainer.config import Recipe
from services.trainer.pipeline import run_stages
from services.trainer.progress import Bars, Lines
from services.trainer.stages import NEEDS, TASKS
from triptych.errors import TriptychError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m services.trainer", description=__doc__)
    parser.add_argument("recipe", type=Path, help="the recipe, a TOML file")
    parser.add_argument("--stage", choices=sorted(NEEDS), help="run only this stage, in this process")
    parser.add_argument("--task", choices=list(TASKS), help="run only the stages of this task of a job")
    parser.add_argument(
        "--json", action="store_true", help="progress as JSON lines on stdout, for a supervising program"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads in all (default: every core)")
    args = parser.parse_args(argv)
    try:
        recipe = Recipe.read(args.recipe)
        if args.stage:
            from services.trainer.worker import run_stage  # torch is only needed here

            run_stage(recipe, args.stage, args.threads)
        else:
            stages = list(TASKS[args.task] if args.task else NEEDS)
            run_stages(recipe, args.recipe, stages, args.threads, Lines() if args.json else Bars(stages))
    except TriptychError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if error.code == "INVALID_ARGUMENT" else 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last saved step", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # the latter may come ignored, in a shell's background job
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
