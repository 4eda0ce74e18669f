"""`triptych train`: everything after it goes to the trainer's own command line."""

from typing import Annotated, Final

import typer

from triptych.handover import hand_over

SETTINGS: Final = {"ignore_unknown_options": True, "help_option_names": []}  # `--help` is the trainer's, too
Arguments = Annotated[list[str] | None, typer.Argument(metavar="COMMAND ...", show_default=False, help="what to do")]


def train(arguments: Arguments = None) -> None:
    """Training runs as jobs: submit, status, list, cancel, resume, worker, flower, stop."""
    hand_over("services.trainer.jobs", arguments or [])
