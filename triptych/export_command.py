"""`triptych export`: a component's form for another backend, or the reason why there is none."""

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from triptych.card import CARD_FILE, read_card
from triptych.console import note
from triptych.errors import FailedPrecondition, InvalidArgument
from triptych.exports import FORMATS, PRECISIONS, export_folder


def export(
    component: Annotated[str, typer.Argument(help="encoder or decoder")],
    checkpoint: Annotated[Path, typer.Argument(help="the whole checkpoint's folder, or the component's own")],
    format: Annotated[str, typer.Option(help=", ".join(FORMATS))] = "onnx",
    precision: Annotated[str, typer.Option(help=", ".join(PRECISIONS))] = "f32",
    max_batch_size: Annotated[int, typer.Option(min=1, help="triton: pictures in one batch")] = 16,
    max_queue_delay_ms: Annotated[float, typer.Option(min=0, help="triton: how long a request waits for others")] = 5.0,
    triton_backend: Annotated[str, typer.Option(help="triton: onnxruntime, or python for a server without it")] = (
        "onnxruntime"
    ),
) -> None:
    """Write a component for another backend. Its path goes to stdout.

    Nothing is written unless it computes what torch computes.
    """
    folder = checkpoint if (checkpoint / CARD_FILE).is_file() else checkpoint / component
    if (kind := read_card(folder).kind) != component:
        raise InvalidArgument(f"{folder} holds the component {kind}, not {component}")
    exporter = _exporter()
    triton = exporter.TritonConfig(
        backend=triton_backend, max_batch_size=max_batch_size, max_queue_delay_ms=max_queue_delay_ms
    )
    config = exporter.ExportConfig(format=format, precision=precision, triton=triton)
    importlib.import_module("triptych.models.placement").prepare_torch(num_threads=0)  # no progress bars
    note(f"exporting {folder} as {config.name}")
    done = exporter.export_component(folder, config)
    note(f"lowest cosine to torch {done.cosine_min_seen:.7f} over {done.images} inputs; {done.cosine_min} is the bar")
    typer.echo(export_folder(folder, config.name))


def _exporter() -> Any:
    """The module that does it; by name, for the base install, which has this command, lacks what that imports."""
    try:
        return importlib.import_module("triptych.models.export")
    except ModuleNotFoundError as error:
        raise FailedPrecondition(f"{error.name} is not installed: pip install 'triptych[encoder,export]'") from error
