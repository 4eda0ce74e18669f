"""A component's form for another backend: written aside, compared with torch, moved into place only if equal."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime

from triptych.card import EXPORTS_FOLDER, Card, folder_digest, read_card, verify_digest, write_card
from triptych.errors import InvalidArgument, Unimplemented
from triptych.exports import FORMATS, PRECISIONS, Export, export_folder, export_name
from triptych.models.export_parts import PARTS, Part
from triptych.models.onnx_graph import write_graph
from triptych.models.onnx_model import (
    OnnxModel,
    Provider,
    choose_provider,
    require_tensorrt,
    tensorrt_options,
)
from triptych.models.parity import BATCH_SIZES, COSINE_MINS, NUM_IMAGES, Parity, check_parity, compare
from triptych.models.triton_repository import TritonConfig, graph_path, write_repository


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to write. f32, bf16 and f16: the type the graph computes in; norms stay float32. int8: weights of matrix
    products in 8 bits, activations quantized at run time. Raises InvalidArgument for what there is not."""

    format: str = "onnx"
    precision: str = "f32"
    triton: TritonConfig = field(default_factory=TritonConfig)

    def __post_init__(self) -> None:
        for name, value, known in (("format", self.format, FORMATS), ("precision", self.precision, PRECISIONS)):
            if value not in known:
                raise InvalidArgument(f"{name} is {value!r}, must be one of {', '.join(known)}")
        if self.format == "tensorrt" and self.precision == "int8":
            raise InvalidArgument("precision int8 is for format onnx and triton: TensorRT does not run such graphs")

    @property
    def name(self) -> str:
        return export_name(self.format, self.precision)


def export_component(folder: Path, config: ExportConfig) -> Export:
    """Writes `exports/NAME/` into a component's folder and its figures into the card; an older export of the same name
    is replaced. Returns the figures.

    Raises ExportError when the result is not equal to torch in float32 on NUM_IMAGES inputs; then, as on any other
    error, the folder is as it was. Raises CheckpointError for a folder that is not what its card describes, and
    FailedPrecondition where this machine cannot run what was asked for.
    """
    card = read_card(folder)
    _check_kind(card, config)
    verify_digest(folder, card)
    provider = _provider(config)
    parts = PARTS[card.kind](folder, card)
    with _written_aside(folder, config.name) as partial:
        seen = {part.name: _write_part(part, partial, config, provider, card) for part in parts}
        lowest = min(parity.cosine_min_seen for parity in seen.values())
        export = Export(
            format=config.format,
            precision=config.precision,
            digest=folder_digest(partial),
            of=card.digest,
            images=NUM_IMAGES,
            cosine_min=COSINE_MINS[config.precision],
            cosine_min_seen=lowest,
            parts={name: parity.cosine_min_seen for name, parity in seen.items()},
            made_with=_made_with(provider),
        )
    write_card(folder, replace(card, exports={**card.exports, config.name: export.to_dict()}))
    return export


def _check_kind(card: Card, config: ExportConfig) -> None:
    if card.kind not in PARTS:
        raise Unimplemented(f"{card.label} cannot be exported: only {' and '.join(PARTS)} can")
    if card.kind != "encoder" and config.format != "onnx":
        raise Unimplemented(f"{card.label} can be exported as onnx only, not as {config.format}")


def _provider(config: ExportConfig) -> Provider:
    """What the gate runs on."""
    if config.format == "tensorrt":
        require_tensorrt()
        return "tensorrt"
    return choose_provider("auto")


def _write_part(part: Part, folder: Path, config: ExportConfig, provider: Provider, card: Card) -> Parity:
    """The graph into `folder`, and how close it is to torch. Raises ExportError when that is not close enough."""
    path = graph_path(folder) if config.format == "triton" else folder / part.file
    write_graph(part.module, part.examples(), part.output, path, config.precision)
    graph = OnnxModel(path, provider, options=_options(part, provider))
    parity = compare(graph, part.reference, tuple(part.inputs.values()), part.center)
    check_parity(f"{card.label}: {config.name}: {part.name}", parity, COSINE_MINS[config.precision])
    if config.format == "triton":
        rows = next(iter(part.inputs.values()))
        write_repository(folder, config.triton, rows.shape[1:], card.output(part.output).shape, card.digest)
    return parity


def _options(part: Part, provider: Provider) -> dict[str, Any]:
    if provider != "tensorrt":
        return {}
    ((name, rows),) = part.inputs.items()
    return tensorrt_options(name, rows.shape[1:], max(BATCH_SIZES), cache=None)


@contextmanager
def _written_aside(folder: Path, name: str) -> Iterator[Path]:
    """A folder that takes the export's place when all went well, and is gone otherwise."""
    exports, target = folder / EXPORTS_FOLDER, export_folder(folder, name)
    partial = exports / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not any(exports.iterdir()):
            exports.rmdir()


def _made_with(provider: Provider) -> str:
    versions = [f"{package} {version(package)}" for package in ("torch", "onnxscript")]
    return ", ".join([*versions, f"ONNX Runtime {onnxruntime.__version__} on {provider}"])
