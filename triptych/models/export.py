"""A component's form for another backend: written aside, compared with torch, moved into place only if equal."""

from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from triptych.card import Card, folder_digest, read_card, verify_digest
from triptych.errors import InvalidArgument, Unimplemented
from triptych.exports import FORMATS, PRECISIONS, Export, export_name
from triptych.models.export_parts import PARTS, Part, run
from triptych.models.export_place import alone, aside, publish
from triptych.models.onnx_graph import Rounded, write_graph
from triptych.models.onnx_model import (
    OnnxModel,
    Provider,
    choose_provider,
    require_tensorrt,
    tensorrt_options,
)
from triptych.models.parity import BATCH_SIZES, COSINE_MINS, NUM_IMAGES, Model, check_parity, compare
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
    is replaced. Returns the figures. Two exports of one component are made one after the other.

    Raises ExportError when the result is not equal to torch in float32 on NUM_IMAGES inputs; then, as on any other
    error, the folder is as it was. Raises CheckpointError for a folder that is not what its card describes, at the
    start or at the end, and FailedPrecondition where this machine cannot run what was asked for.
    """
    _check_kind(read_card(folder), config)
    with alone(folder):
        card = read_card(folder)
        verify_digest(folder, card)
        with aside(folder, config.name) as own:
            export = _write(folder, card, config, own)
            publish(folder, config.name, own, export)
    return export


def _check_kind(card: Card, config: ExportConfig) -> None:
    if card.kind not in PARTS:
        raise Unimplemented(f"{card.label} cannot be exported: only {' and '.join(PARTS)} can")
    if card.kind != "encoder" and config.format != "onnx":
        raise Unimplemented(f"{card.label} can be exported as onnx only, not as {config.format}")


def _write(folder: Path, card: Card, config: ExportConfig, own: Path) -> Export:
    """All parts into `own`, each through the gate."""
    provider = _provider(config)
    seen = {part.name: _write_part(part, own, config, provider, card) for part in PARTS[card.kind](folder, card)}
    return Export(
        format=config.format,
        precision=config.precision,
        digest=folder_digest(own),
        of=card.digest,
        images=NUM_IMAGES,
        cosine_min=COSINE_MINS[config.precision],
        cosine_min_seen=min(seen.values()),
        parts=seen,
        made_with=_made_with(provider),
    )


def _provider(config: ExportConfig) -> Provider:
    """What the gate runs on."""
    if config.format == "tensorrt":
        require_tensorrt()
        return "tensorrt"
    return choose_provider("auto")


def _write_part(part: Part, folder: Path, config: ExportConfig, provider: Provider, card: Card) -> float:
    """The graph into `folder`, and its lowest cosine to torch. Raises ExportError when that is not close enough."""
    path = graph_path(folder, card.digest) if config.format == "triton" else folder / part.file
    write_graph(part.module, part.examples(), part.output, path, config.precision)
    models: dict[str, Model] = {part.name: OnnxModel(path, provider, options=_options(part, provider))}
    if config.precision == "f16" and provider == "cpu":
        # ONNX Runtime's CPU provider computes such a graph in float32: what overflows in float16 shows in torch only.
        models[f"{part.name} in torch's float16"] = partial(run, Rounded(part.module, torch.float16))
    seen = [_gate(f"{card.label}: {config.name}: {name}", model, part, config) for name, model in models.items()]
    if config.format == "triton":
        rows = next(iter(part.inputs.values()))
        write_repository(folder, config.triton, rows.shape[1:], card.output(part.output).shape, card.digest)
    return min(seen)


def _gate(name: str, model: Model, part: Part, config: ExportConfig) -> float:
    parity = compare(model, part.reference, tuple(part.inputs.values()), part.center)
    check_parity(name, parity, COSINE_MINS[config.precision])
    return parity.cosine_min_seen


def _options(part: Part, provider: Provider) -> dict[str, Any]:
    if provider != "tensorrt":
        return {}
    ((name, rows),) = part.inputs.items()
    return tensorrt_options(name, rows.shape[1:], max(BATCH_SIZES), cache=None)


def _made_with(provider: Provider) -> str:
    versions = [f"{package} {version(package)}" for package in ("torch", "onnxscript")]
    return ", ".join([*versions, f"ONNX Runtime {onnxruntime.__version__} on {provider}"])
