"""`triptych evaluate`: how good a checkpoint is. The trainer does it; this hands over."""

from pathlib import Path
from typing import Annotated

import typer

from triptych.errors import InvalidArgument
from triptych.handover import hand_over

MODULE = "services.trainer.evaluate"


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="the checkpoint's folder")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for evaluation.json and evaluation.html")],
    evaluators: Annotated[
        str, typer.Option(help="names, with commas; those on Blocks, and those that --data names, when absent")
    ] = "",
    data: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="the data set of an evaluator that needs one")
    ] = None,
    num_scenes: Annotated[int, typer.Option(help="Blocks scenes; questions are twice as many")] = 300,
    num_records: Annotated[int, typer.Option(help="of each data set, the first ones; 0: all")] = 0,
    seed: Annotated[int, typer.Option(help="other scenes, other noise")] = 0,
    plain_questions: Annotated[
        bool, typer.Option("--plain-questions", help="ask data sets' questions without LLaVA's words on how to answer")
    ] = False,
    dino: Annotated[
        Path | None, typer.Option(help="for edit-similarity: folder of DINO or DINOv2, as transformers writes it")
    ] = None,
    processes: Annotated[int, typer.Option(min=0, help="to spread the work over; 0: one for each core")] = 0,
) -> None:
    """Measure a checkpoint on the Blocks world, or on data sets. Figures and the report's path go to stdout."""
    if output.exists() and not output.is_dir():
        raise InvalidArgument(f"--output {output} is a file, must be a folder or a new name")
    args = [str(checkpoint), "--output", str(output), "--num-scenes", str(num_scenes), "--seed", str(seed)]
    args += ["--num-records", str(num_records), "--processes", str(processes)]
    args += [f"--data={pair}" for pair in data or ()]
    args += [f"--evaluators={evaluators}"] if evaluators else []
    args += ["--plain-questions"] if plain_questions else []
    args += ["--dino", str(dino)] if dino else []
    hand_over(MODULE, args)
