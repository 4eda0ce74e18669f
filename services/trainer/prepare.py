"""`python -m services.trainer.prepare MIX.toml -o OUT`: makes an instruction mix out of published data sets.

Stop it whenever you like: the same command goes on where it was, and writes the same bytes.
"""

import argparse
import os
import signal
import sys
from concurrent.futures import Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from services.trainer.data.folder import MixFolder
from services.trainer.data.mix import Mix
from services.trainer.data.phases import Phase, phases
from services.trainer.pool import worker_pool
from triptych.errors import FailedPrecondition, TriptychError


def prepare(mix: Mix, out: Path, num_workers: int, root: Path) -> MixFolder:
    """Every step, as many at a time as there are workers; relative paths of the mix are taken from `root`.

    Raises InvalidArgument before work starts when the mix or its sources are not as they must be, and
    FailedPrecondition when they turn out not to suffice.
    """
    folder = MixFolder.begin(mix, out, root)
    with Progress(console=Console(stderr=True)) as progress, worker_pool(num_workers) as pool:
        for phase in phases(folder):
            _run(progress, pool, phase)
    return folder


def _run(progress: Progress, pool: Executor, phase: Phase) -> None:
    """The first error ends the run; steps under way finish, those that wait are dropped."""
    futures = [pool.submit(phase.step, *arguments) for arguments in phase.open()]
    total = len(phase.marks)
    bar = progress.add_task(f"{phase.title:>8}", total=total, completed=total - len(futures))
    try:
        for future in as_completed(futures):
            future.result()
            progress.advance(bar)
    except BrokenProcessPool:
        raise FailedPrecondition("a worker was killed; go on by the same command, with fewer --workers") from None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m services.trainer.prepare", description=__doc__)
    parser.add_argument("mix", type=Path, help="the recipe of the mix, a TOML file")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers {args.workers} is below 1")
    try:
        folder = prepare(Mix.read(args.mix), args.out, args.workers, Path.cwd())
    except TriptychError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if error.code == "INVALID_ARGUMENT" else 1
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(folder.out / "card.html")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
    sys.exit(main())
