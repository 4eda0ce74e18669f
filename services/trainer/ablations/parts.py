"""What a row builds on: finished stages that ship with the table or are the base run's, or, where the row changes one
or nobody has it, a stage trained for it."""

from collections.abc import Callable
from pathlib import Path

from services.trainer.ablations.table import Row, Table
from services.trainer.done import done_digest
from services.trainer.stages import NEEDS, OBJECTIVES, digest
from triptych.errors import FailedPrecondition

NEEDED = ("tokenizer", "vae_decoder", "unet")  # by every first phase, whatever it starts from
OUTPUT = "out"
Report = Callable[[dict[str, float]], None]


def folder_of(table: Table) -> Path:
    """Where all of the table's work lies."""
    return table.base().runs / "ablations" / table.name


def stage_folder(table: Table, row: Row, stage: str) -> Path:
    """The table's own part or the base run's, if either is what the row asks for, and else one that rows and seeds
    share, which may be yet to train.

    Raises FailedPrecondition when it takes no training and is nowhere.
    """
    base, wanted = table.base(), digest(table.upstream(row), stage)
    for folder in (table.parts, base.folder):
        if folder and done_digest(folder / stage) == wanted:
            return folder / stage
    if stage not in OBJECTIVES:
        raise _unfinished(table, stage)
    return _shared(table) / f"{stage}-{wanted}"


def finished(table: Table, stage: str) -> Path:
    """The base run's. Raises FailedPrecondition when it has not finished the stage."""
    base = table.base()
    if done_digest(base.folder / stage) != digest(base, stage):
        raise _unfinished(table, stage)
    return base.folder / stage


def needed(table: Table) -> tuple[str, ...]:
    """Stages whose work a first phase reads."""
    return (*NEEDED, "understanding") if table.start == "understanding" else (*NEEDED, "encoder", "llm")


def inputs(table: Table, row: Row) -> dict[str, Path]:
    """Their output folders."""
    return {stage: stage_folder(table, row, stage) / OUTPUT for stage in needed(table)}


def identity(table: Table, row: Row) -> dict[str, str]:
    """Their digests."""
    return {stage: digest(table.upstream(row), stage) for stage in needed(table)}


def own_stages(table: Table, row: Row) -> list[str]:
    """Stages to train for the row, and for all that share them, each after those it builds on."""
    wanted, own = {*needed(table)}, set()
    for stage in reversed(NEEDS):
        if stage in wanted and stage_folder(table, row, stage).parent == _shared(table):
            own.add(stage)
            wanted |= {*NEEDS[stage]}
    return [stage for stage in NEEDS if stage in own]


def is_done(table: Table, row: Row, stage: str) -> bool:
    return done_digest(stage_folder(table, row, stage)) == digest(table.upstream(row), stage)


def train_own(table: Table, row: Row, stage: str, report: Report) -> None:
    """Trains a stage that neither parts nor base run have. Does nothing when it is done."""
    if is_done(table, row, stage):
        return
    from services.trainer.train import train_stage  # torch is only needed here

    recipe = table.upstream(row)
    needs = {need: stage_folder(table, row, need) / OUTPUT for need in NEEDS[stage]}
    objective = OBJECTIVES.load(stage)(recipe, needs)
    train_stage(objective, stage_folder(table, row, stage), digest(recipe, stage), report)


def _shared(table: Table) -> Path:
    return table.base().runs / "ablations" / "shared"


def _unfinished(table: Table, stage: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{table.base().folder} holds no {stage} of {table.recipe.name}: python -m services.trainer comes first"
    )
