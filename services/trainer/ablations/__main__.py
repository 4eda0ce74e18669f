"""`python -m services.trainer.ablations TABLE.toml`: trains every row of an ablation table under every seed, judges
them, and writes the table.

Runs go side by side, a process and a core each. Stop it whenever you like: the same command goes on where it was, and
does nothing where there is nothing to do.
"""

import argparse
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

from services.trainer.ablations import parts
from services.trainer.ablations.results import Results
from services.trainer.ablations.run import Run
from services.trainer.ablations.side_by_side import Work, finish_all
from services.trainer.ablations.table import Table
from services.trainer.arguments import at_least_one
from services.trainer.progress import Bars
from services.trainer.stages import NEEDS
from triptych.errors import TriptychError


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        table = Table.read(args.table)
        if args.steps:
            table = table.model_copy(update={"steps": args.steps})
        if args.only:
            _do(table, args.only)
            return 0
        runs = [Run(table, row, seed) for seed in args.seeds for row in table.rows]
        results = _results(table, runs, args)
    except TriptychError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if error.code == "INVALID_ARGUMENT" else 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last saved step", file=sys.stderr)
        return 130
    print(results.to_markdown(), end="")
    print(results.write())
    return 0


def _results(table: Table, runs: list[Run], args: argparse.Namespace) -> Results:
    """After all work is done; the table is written anew whenever a run is."""
    works = _works(table, runs, [str(args.table), *(["--steps", str(args.steps)] if args.steps else [])])
    bars = Bars([work.name for work in works.values() if not work.is_done()])
    finish_all(works, args.side_by_side, parts.folder_of(table) / "logs", bars, partial(_write, table, runs))
    return Results.of(table, runs)


def _write(table: Table, runs: list[Run]) -> None:
    Results.of(table, runs).write()


def _works(table: Table, runs: list[Run], args: list[str]) -> dict[Path, Work]:
    """Stages that rows change, each once, and the runs, which wait for them. Raises FailedPrecondition when the base
    run lacks something."""
    works: dict[Path, Work] = {}
    for index, row in enumerate(table.rows):
        parts.inputs(table, row)
        for stage in parts.own_stages(table, row):
            folder = parts.stage_folder(table, row, stage)
            needs = works.keys() & {parts.stage_folder(table, row, need) for need in NEEDS[stage]}
            done = partial(parts.is_done, table, row, stage)
            works.setdefault(folder, Work(folder.name, [*args, "--only", f"{stage}:{index}"], frozenset(needs), done))
    for run in runs:
        own = {parts.stage_folder(table, run.row, stage) for stage in parts.own_stages(table, run.row)}
        command = [*args, "--only", f"{run.seed}:{table.rows.index(run.row)}"]
        works[run.folder] = Work(run.name, command, frozenset(own), partial(Run.is_done, run))
    return works


def _do(table: Table, only: str) -> None:
    """`STAGE:ROW` or `SEED:ROW`, in this process."""
    import torch

    torch.use_deterministic_algorithms(True)
    what, _, number = only.partition(":")
    row = table.rows[int(number)]
    if what.isdigit():
        Run(table, row, int(what)).go(_report)
    else:
        parts.train_own(table, row, what, _report)


def _report(figures: dict[str, float]) -> None:
    print(json.dumps(figures), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.trainer.ablations", description=__doc__)
    parser.add_argument("table", type=Path, help="one of recipes/ablations/*.toml")
    parser.add_argument("--seeds", type=_seeds, default=(0, 1, 2), help="with commas (default: 0,1,2)")
    parser.add_argument("--steps", type=at_least_one, help="of each row, in place of the table's")
    parser.add_argument(
        "--side-by-side", type=at_least_one, default=os.cpu_count() or 1, help="processes (default: one for each core)"
    )
    parser.add_argument("--only", help=argparse.SUPPRESS)  # how a run is started in a process of its own
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(seed) for seed in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} must be numbers with commas between") from None


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # the latter may come ignored, in a shell's background job
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
