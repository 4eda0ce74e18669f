"""`python -m services.trainer RECIPE.toml`: trains a recipe on this machine, without a broker.

Stages that do not need each other run side by side, each in a process of its own (on two cores that beats two threads
in one). Stop it whenever you like: the same command goes on where it was.
"""

import argparse
import signal
import sys
from pathlib import Path

from services.trainer.arguments import at_least_one
from services.trainer.pipeline import Node, run_stages
from services.trainer.progress import Bars, Lines
from services.trainer.recipe import AnyRecipe, read_recipe
from services.trainer.stages import TASKS, graph
from triptych.errors import InvalidArgument, TriptychError

EXIT_CODES = {"INVALID_ARGUMENT": 2, "UNAVAILABLE": 3}  # 3: a stage was killed; the same command goes on


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m services.trainer", description=__doc__)
    parser.add_argument("recipe", type=Path, help="the recipe, a TOML file")
    parser.add_argument("--stage", help="run only this stage, in this process (one rank of it)")
    parser.add_argument("--task", choices=list(TASKS), help="run only the stages of this task of a job")
    parser.add_argument(
        "--json", action="store_true", help="progress as JSON lines on stdout, for a supervising program"
    )
    parser.add_argument("--rendezvous", help="of several machines: host:port, free on the first, where they meet")
    parser.add_argument("--node-rank", type=int, help="of several machines: which this is, from 0 (default)")
    parser.add_argument("--threads", type=at_least_one, default=0, help="CPU threads in all (default: every core)")
    args = parser.parse_args(argv)
    try:
        recipe = read_recipe(args.recipe)
        recipe.check()
        known = graph(recipe)
        if args.stage and args.stage not in known.needs:
            raise InvalidArgument(f"unknown stage {args.stage!r}, known: {', '.join(known.needs)}")
        if args.stage:
            from services.trainer.worker import run_stage  # torch is only needed here

            run_stage(recipe, args.stage, args.threads)
        else:
            stages = list(known.tasks[args.task] if args.task else known.needs)
            node = _node(recipe, args.node_rank, args.rendezvous)
            run_stages(recipe, args.recipe, stages, args.threads, Lines() if args.json else Bars(stages), node)
    except TriptychError as error:
        sys.stderr.write(f"error: {error}\n")  # at once, also unbuffered: ranks share a log
        return EXIT_CODES.get(error.code, 1)
    except OSError as error:  # a full disk, a folder that may not be written
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last saved step", file=sys.stderr)
        return 130
    return 0


def _node(recipe: AnyRecipe, rank: int | None, rendezvous: str | None) -> Node | None:
    """This machine among several; None where it is the only one. Raises InvalidArgument for one that would only wait:
    the recipe has no work for it."""
    if not rendezvous:
        if rank is not None:
            raise InvalidArgument(f"--node-rank {rank} is nothing without --rendezvous, where the machines meet")
        return None
    spread = [recipe.distribution(stage) for stage in graph(recipe).needs]
    num_nodes = max(distribution.num_nodes if distribution else 1 for distribution in spread)
    if not 0 <= (rank or 0) < num_nodes:
        raise InvalidArgument(f"--node-rank {rank} is not in 0..{num_nodes - 1}: the recipe's num_nodes is {num_nodes}")
    host, _, port = rendezvous.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidArgument(f"--rendezvous {rendezvous} must be host:port")
    return Node(rank or 0, rendezvous)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # the latter may come ignored, in a shell's background job
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
