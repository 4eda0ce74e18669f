"""`python -m services.trainer.evaluate CHECKPOINT -o REPORT_DIR`: how good a checkpoint is.

Without data sets it is asked about the Blocks world, whose scenes each hold a shape-colour-cell combination that
training never saw. REPORT_DIR gets evaluation.json and evaluation.html.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from services.trainer.evaluators import BLOCKS, EVALUATORS
from triptych.card import read_card
from triptych.errors import CheckpointError, InvalidArgument, TriptychError

if TYPE_CHECKING:
    from services.trainer.evaluation import Evaluation


def evaluate_checkpoint(
    checkpoint: Path,
    names: tuple[str, ...] = BLOCKS,
    *,
    num_scenes: int = 300,
    num_records: int = 0,
    seed: int = 0,
    auto_every: int = 3,
    plain_questions: bool = False,
    dino: Path | None = None,
    data: tuple[tuple[str, Path], ...] = (),
    num_processes: int = 1,
    num_threads: int = 0,
    report: Callable[[dict[str, float]], None] = lambda figures: None,
) -> "Evaluation":
    """All figures of a checkpoint, at its own default steps and guidance.

    Raises InvalidArgument for what is asked, CheckpointError for a checkpoint that is not whole.
    """
    if not checkpoint.is_dir():
        raise InvalidArgument(f"there is no checkpoint {checkpoint}")
    from services.trainer.evaluation import Evaluation, about
    from services.trainer.evaluators.base import Settings
    from services.trainer.evaluators.panel import Job, evaluate

    steps, guidance = _defaults(checkpoint)
    settings = Settings(
        num_scenes=num_scenes,
        num_records=num_records,
        seed=seed,
        auto_every=auto_every,
        plain_questions=plain_questions,
        dino=dino,
        num_inference_steps=steps,
        guidance_scale=guidance,
    )
    facts = about(checkpoint, settings, data)
    return Evaluation(facts, evaluate(Job(checkpoint, names, settings, data, num_threads), num_processes, report))


def _defaults(checkpoint: Path) -> tuple[int, float]:
    """Steps and guidance as callers get them who ask for none."""
    if not (checkpoint / "decoder").exists():
        return 1, 1.0  # nothing is drawn
    card = read_card(checkpoint / "decoder")
    return card.fact("default_num_inference_steps", int), card.fact("default_guidance_scale", float)


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        _check_output(args.output)
        evaluation = _evaluated(args)
        _print(evaluation)  # first: a full disk takes no figure away
        evaluation.write(args.output)
    except TriptychError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidArgument | CheckpointError) else 1
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed: pip install 'triptych[trainer]'", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, as a rule
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(args.output / "evaluation.html")
    return 0


def _evaluated(args: argparse.Namespace) -> "Evaluation":
    console = Console(stderr=True)
    data = tuple(_data(text) for text in args.data)
    names = tuple(args.evaluators.split(",")) if args.evaluators else (*BLOCKS, *(name for name, _ in data))
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=None)
        return evaluate_checkpoint(
            args.checkpoint,
            names,
            num_scenes=args.num_scenes,
            num_records=args.num_records,
            seed=args.seed,
            plain_questions=args.plain_questions,
            dino=args.dino,
            data=data,
            num_processes=args.processes,
            num_threads=_threads(args.processes),
            report=lambda figures: progress.update(task, completed=figures["step"], total=figures["steps"]),
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="triptych evaluate", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="the checkpoint folder")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for evaluation.json and .html")
    parser.add_argument(
        "--evaluators", help=f"{', '.join(EVALUATORS)} (default: those on Blocks, and those that --data names)"
    )
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FOLDER", help="an evaluator's data set")
    parser.add_argument("--num-scenes", type=int, default=300, help="Blocks scenes; questions are twice as many")
    parser.add_argument("--num-records", type=int, default=0, help="of each data set, the first ones (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="other scenes, other noise")
    parser.add_argument(
        "--plain-questions", action="store_true", help="ask data sets' questions without LLaVA's words on how to answer"
    )
    parser.add_argument("--dino", type=Path, help="for edit-similarity: folder of DINO, as transformers writes it")
    parser.add_argument(
        "--processes", type=_processes, default="0", help="to spread the work over (default: one each core)"
    )
    return parser


def _processes(text: str) -> int:
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value or os.cpu_count() or 1


def _threads(num_processes: int) -> int:
    """Of each process: its share of the cores, unless OMP_NUM_THREADS says otherwise, which torch itself reads."""
    return 0 if "OMP_NUM_THREADS" in os.environ else max(1, (os.cpu_count() or 1) // num_processes)


def _check_output(folder: Path) -> None:
    """Raises InvalidArgument where no folder is or can be, or nothing may be written."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InvalidArgument(f"--output {folder}: {there} is a file")
    if not os.access(there, os.W_OK):
        raise InvalidArgument(f"--output {folder}: {there} may not be written to")


def _data(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals or not folder:
        raise InvalidArgument(f"--data {text} must be NAME=FOLDER")
    return name, Path(folder)


def _print(evaluation: "Evaluation") -> None:
    from services.trainer.evaluators.page import to_text

    table = Table("figure", *(("right", "value", "95 % interval")))
    for column in table.columns[1:]:
        column.justify = "right"
    for result in evaluation.results.values():
        for name, figure in result.figures.items():
            table.add_row(name, *to_text(figure))
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
    sys.exit(main())
