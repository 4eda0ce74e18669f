"""Exports: forms of a component for other backends, under `exports/NAME/` in its folder, each recorded in its card.

`triptych export` writes them, services read them. Plain Python. Why an export has a digest of its own, apart from the
component's: docs/decisions/0006.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from triptych.card import EXPORTS_FOLDER, Card, folder_digest
from triptych.errors import CheckpointError

FORMATS: Final = ("onnx", "tensorrt", "triton")
PRECISIONS: Final = ("f32", "bf16", "f16", "int8")
INPUT: Final = "pixel_values"  # of an encoder's graph: (B, 3, H, W) float32
OUTPUT: Final = "embeddings"  # (B, M, D_llm) float32
ENCODER_GRAPH: Final = "encoder.onnx"
MAX_BATCH_SIZE: Final = 4096  # of any graph
DIGEST_PARAMETER: Final = "component_digest"  # in config.pbtxt: which component the server's model is


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    **dict.fromkeys(("format", "precision", "digest", "of", "made_with"), (str,)),
    **dict.fromkeys(("cosine_min", "cosine_min_seen"), (float, int)),
    "images": (int,),
    "parts": (dict,),
}


@dataclass(frozen=True, kw_only=True)
class Export:
    """What the card says about one export. `digest` covers its files, `of` is the digest of the component it was made
    from; the cosines are to torch in float32, the lowest over `images` inputs, by part and in all."""

    format: str
    precision: str
    digest: str
    of: str
    images: int
    cosine_min: float
    cosine_min_seen: float
    parts: dict[str, float]
    made_with: str

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Raises ValueError for missing or unknown keys, and for values of another type."""
        if wrong := _TYPES.keys() ^ values.keys():
            raise ValueError(f"missing or unknown keys {sorted(wrong)}, known: {sorted(_TYPES)}")
        for key, types in _TYPES.items():
            if not isinstance(values[key], types) or isinstance(values[key], bool):
                raise ValueError(f"{key} is {values[key]!r}, must be {types[0].__name__}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def export_name(format: str, precision: str) -> str:
    """Of its folder and its key in the card: "onnx-f32"."""
    return f"{format}-{precision}"


def triton_model(digest: str) -> str:
    """The model's name in a repository made from the component `digest`: "encoder_3f9a0c1d2e4b". No other component's
    model has it, so a server that was given another one refuses requests rather than to answer them with its own."""
    return f"encoder_{digest.removeprefix('sha256:')[:12]}"


def export_folder(folder: Path, name: str) -> Path:
    """Where a component in `folder` has its export `name`."""
    return folder / EXPORTS_FOLDER / name


def read_export(card: Card, name: str, formats: tuple[str, ...] = FORMATS) -> Export:
    """The card's record. Raises CheckpointError when there is none, when it is malformed or of another format than
    asked for, and when it was made from another state of the component."""
    if name not in card.exports:
        known = ", ".join(sorted(card.exports)) or "none"
        raise CheckpointError(f"{card.label} has no export {name!r}, it has: {known}; `triptych export` makes them")
    try:
        export = Export.from_dict(card.exports[name])
    except (AttributeError, ValueError) as error:  # the first: not an object at all
        raise CheckpointError(f"{card.label}: exports.{name}: {error}") from error
    if export.format not in formats:
        raise CheckpointError(f"{card.label}: export {name!r} is {export.format}, must be {' or '.join(formats)}")
    if export.of != card.digest:
        raise CheckpointError(
            f"{card.label}: export {name!r} was made from {export.of}, the component is {card.digest}: export it again"
        )
    return export


def verify_export(folder: Path, card: Card, name: str) -> Path:
    """The export's own folder. Raises CheckpointError when its files are not those that passed the gate."""
    export, own = read_export(card, name), export_folder(folder, name)
    found = folder_digest(own)
    if found != export.digest:
        raise CheckpointError(
            f"{card.label}: export {name!r} in {own} is half-copied or changed: its card says {export.digest}, "
            f"its files are {found}"
        )
    return own
