"""What a row builds on: finished stages of the base run, or, where the row changes one, a stage of its own."""

from collections.abc import Callable
from pathlib import Path

from services.trainer.ablations.table import Row, Table
from services.trainer.done import done_digest
from services.trainer.stages import NEEDS, OBJECTIVES, digest
from triptych.errors import FailedPrecondition, InvalidArgument

NEEDED = ("tokenizer", "vae_decoder", "unet", "encoder", "llm")  # by every first phase, whatever it starts from
OUTPUT = "out"
Report = Callable[[dict[str, float]], None]


def folder_of(table: Table) -> Path:
    """Where all of the table's work lies."""
    return table.base().runs / "ablations" / table.name


def stage_folder(table: Table, row: Row, stage: str) -> Path:
    """The base run's, if the row has changed nothing about the stage, and else one that rows and seeds share.

    Raises FailedPrecondition when the base run has not finished it, InvalidArgument when rows cannot change it.
    """
    base, wanted = table.base(), digest(table.upstream(row), stage)
    if wanted == digest(base, stage):
        if done_digest(base.folder / stage) != wanted:
            raise FailedPrecondition(
                f"{base.folder} holds no {stage} of {table.recipe.name}: python -m services.trainer comes first"
            )
        return base.folder / stage
    if stage not in OBJECTIVES:
        raise InvalidArgument(f"row {row.name!r} changes {stage}, which rows cannot")
    return base.runs / "ablations" / "shared" / f"{stage}-{wanted}"


def needed(table: Table) -> tuple[str, ...]:
    """Stages whose work a first phase reads."""
    return (*NEEDED, "understanding") if table.start == "understanding" else NEEDED


def inputs(table: Table, row: Row) -> dict[str, Path]:
    """Their output folders."""
    return {stage: stage_folder(table, row, stage) / OUTPUT for stage in needed(table)}


def identity(table: Table, row: Row) -> dict[str, str]:
    """Their digests."""
    return {stage: digest(table.upstream(row), stage) for stage in needed(table)}


def own_stages(table: Table, row: Row) -> list[str]:
    """Stages that the row does not take from the base run, each after those it builds on."""
    base, changed = table.base(), table.upstream(row)
    wanted = {*needed(table)}
    for _ in NEEDS:
        wanted |= {need for stage in wanted for need in NEEDS[stage]}
    return [stage for stage in NEEDS if stage in wanted and digest(base, stage) != digest(changed, stage)]


def is_done(table: Table, row: Row, stage: str) -> bool:
    return done_digest(stage_folder(table, row, stage)) == digest(table.upstream(row), stage)


def train_own(table: Table, row: Row, stage: str, report: Report) -> None:
    """Trains a stage that the row changes. Does nothing when it is done."""
    if is_done(table, row, stage):
        return
    from services.trainer.train import train_stage  # torch is only needed here

    recipe = table.upstream(row)
    needs = {need: stage_folder(table, row, need) / OUTPUT for need in NEEDS[stage]}
    objective = OBJECTIVES.load(stage)(recipe, needs)
    train_stage(objective, stage_folder(table, row, stage), digest(recipe, stage), report)
