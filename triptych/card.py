"""Component cards: what a folder holds, what it accepts and produces, and the digest that ties the card to the weights.

The trainer writes cards, every service reads its own at start. Plain Python; the wire form is in
`triptych.serving.describe`.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

from triptych import strict_json
from triptych.errors import CheckpointError

T = TypeVar("T")

CARD_FILE: Final = "card.json"
PARTIAL_CARD: Final = f".{CARD_FILE}.partial"  # being written, or left by a process that was killed
EXPORTS_FOLDER: Final = "exports"
MAX_CARD_BYTES: Final = 4 * 2**20
MAX_LABEL_CHARS: Final = 256
MAX_RANK: Final = 8  # as on the wire
MAX_DIMENSION: Final = 2**31 - 1
# Formats that run code when they are loaded, or are taken for such: weights are safetensors.
PICKLES: Final = (".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")
KINDS: Final = ("encoder", "llm", "decoder")
SPACED_TYPES: Final = ("embeddings", "hidden_states")


@dataclass(frozen=True)
class Port:
    """One input or output. `space` ties embeddings to the weights that give them meaning; images and text have none.
    `shape` has -1 where free; `accepts` lists further spaces an input was tested to understand."""

    name: str
    type: str
    space: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()
    accepts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.type in SPACED_TYPES and not self.space:
            raise ValueError(f"port {self.name!r} of type {self.type} needs a space")
        if len(self.shape) > MAX_RANK or not all(-1 <= size <= MAX_DIMENSION for size in self.shape):
            raise ValueError(
                f"port {self.name!r} has shape {self.shape}: at most {MAX_RANK} sizes up to {MAX_DIMENSION}"
            )


@dataclass(frozen=True)
class Probes:
    """Golden inputs and outputs, and the lowest cosine a replica may reach on them."""

    file: str
    cosine_min: float

    def __post_init__(self) -> None:
        path = PurePosixPath(self.file)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in self.file or "\0" in self.file:
            raise ValueError(f"probes.file is {self.file!r}, must be a path inside the component's folder")
        if not 0.0 < self.cosine_min <= 1.0:
            raise ValueError(f"probes.cosine_min is {self.cosine_min}, must be above 0 and at most 1")


@dataclass(frozen=True)
class Card:
    """card.json. `digest` covers every other file of the folder, exports apart; `made_by` says which recipe wrote it;
    `facts` is what a caller must know to use the component; `exports` what was measured on other backends' forms of
    it, with digests of their own (`triptych.exports`)."""

    kind: str
    name: str
    version: str
    digest: str = ""
    made_by: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    probes: Probes | None = None
    exports: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, must be one of {', '.join(KINDS)}")
        for field_ in ("name", "version", "digest"):  # they go into logs and onto terminals
            value = getattr(self, field_)
            if len(value) > MAX_LABEL_CHARS or not value.isprintable():
                raise ValueError(f"{field_} must be at most {MAX_LABEL_CHARS} printable characters")

    @property
    def label(self) -> str:
        """How errors and logs name the component."""
        return f"{self.kind} {self.name} {self.version}"

    @property
    def generation(self) -> str:
        """The start of the digest: short enough for a metric's label, long enough to tell builds apart."""
        return self.digest.removeprefix("sha256:")[:12]

    def input(self, name: str) -> Port:
        """Raises CheckpointError when the card has no such port."""
        return _port(self.inputs, name, f"{self.label} has no input")

    def output(self, name: str) -> Port:
        """Raises CheckpointError when the card has no such port."""
        return _port(self.outputs, name, f"{self.label} has no output")

    def fact(self, name: str, expected: type[T]) -> T:
        """Raises CheckpointError when the card does not say it, or not as an `expected`; an int is a float too."""
        value = self.facts.get(name)
        if expected is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, expected) or isinstance(value, bool):
            raise CheckpointError(f"{self.label}: facts.{name} is {value!r}, must be {expected.__name__}")
        return value


def matches(output: Port, input: Port) -> bool:
    """Whether what `output` produces has a meaning for `input`."""
    return output.type == input.type and (output.space == input.space or output.space in input.accepts)


def read_card(folder: Path) -> Card:
    """Raises CheckpointError naming the file and the key when the card is missing or malformed."""
    path = folder / CARD_FILE
    try:
        values = strict_json.read(path, MAX_CARD_BYTES)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: {folder} is not a component folder") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    try:
        return _card(values)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def write_card(folder: Path, card: Card) -> Card:
    """Writes card.json with the digest of the folder as it is now, and returns that card. Write it last."""
    card = replace(card, digest=folder_digest(folder))
    replace_card(folder, card)
    return card


def replace_card(folder: Path, card: Card) -> None:
    """Writes card.json as `card` is, with the digest it has. Readers see the old one or the new one, never a part."""
    values = {key: value for key, value in asdict(card).items() if value is not None}
    for port in (*values["inputs"], *values["outputs"]):
        for key in [key for key, value in port.items() if not value]:
            del port[key]
    partial = folder / PARTIAL_CARD
    try:
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        partial.replace(folder / CARD_FILE)
    finally:
        partial.unlink(missing_ok=True)


def folder_digest(folder: Path) -> str:
    """sha256 of the folder's `sha256sum` listing (every file but its own card.json, half-written ones too,
    and exports/, sorted by path): an export changes nothing of what the component is. Raises CheckpointError for
    symbolic links and whatever is not a plain file: a component must stand on its own."""
    listing = hashlib.sha256()
    for name, path in sorted(_files(folder)):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        listing.update(f"{content}  {name}\n".encode())
    return f"sha256:{listing.hexdigest()}"


def verify_digest(folder: Path, card: Card) -> None:
    """Raises CheckpointError naming the component and both digests when the folder is not what its card describes."""
    found = folder_digest(folder)
    if found != card.digest:
        raise CheckpointError(
            f"{card.label} in {folder} is half-copied or changed: its card says {card.digest}, its files are {found}"
        )


def _port(ports: tuple[Port, ...], name: str, complaint: str) -> Port:
    for port in ports:
        if port.name == name:
            return port
    raise CheckpointError(f"{complaint} {name!r}, it has: {', '.join(port.name for port in ports)}")


def _files(folder: Path) -> Iterable[tuple[str, Path]]:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder")
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise CheckpointError(f"{path} is a symbolic link: a component folder holds its own files only")
        if path.is_dir() or name in (CARD_FILE, PARTIAL_CARD) or name.startswith(f"{EXPORTS_FOLDER}/"):
            continue
        if not path.is_file() or "\n" in name:
            raise CheckpointError(f"{path!r} is not a plain file with a plain name")
        if path.suffix.lower() in PICKLES:
            raise CheckpointError(f"{path} may be a pickle, which runs code when loaded: weights must be safetensors")
        yield name, path


def _card(values: object) -> Card:
    known = _checked(Card, values, "card")
    for side in ("inputs", "outputs"):
        known[side] = tuple(
            Port(**_checked(Port, port, f"{side}[{index}]")) for index, port in enumerate(known.get(side, ()))
        )
    if known.get("probes") is not None:
        known["probes"] = Probes(**_checked(Probes, known["probes"], "probes"))
    return Card(**known)


_JSON_TYPES: Final[dict[str, tuple[type, ...]]] = {
    **dict.fromkeys(("kind", "name", "version", "digest", "type", "space", "dtype", "file"), (str,)),
    **dict.fromkeys(("made_by", "facts", "exports", "probes"), (dict,)),
    **dict.fromkeys(("inputs", "outputs", "shape", "accepts"), (list,)),
    "cosine_min": (float, int),
}


def _checked(cls: type[Any], values: object, where: str) -> dict[str, Any]:
    """The keys of `cls` from a JSON object, each of its JSON type; lists of scalars become tuples."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} is {type(values).__name__}, must be an object")
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(cls)}
    if unknown := set(values) - set(known):
        raise ValueError(f"{where} has unknown keys {sorted(unknown)}, known: {sorted(known)}")
    if missing := {name for name, is_required in known.items() if is_required} - set(values):
        raise ValueError(f"{where} misses {sorted(missing)}")
    for key, value in values.items():
        if not isinstance(value, _JSON_TYPES[key]) or isinstance(value, bool):
            raise ValueError(f"{where}.{key} is {value!r}, must be {_JSON_TYPES[key][0].__name__}")
    for key, item in (("shape", int), ("accepts", str)):
        if key in values:
            if not all(isinstance(entry, item) and not isinstance(entry, bool) for entry in values[key]):
                raise ValueError(f"{where}.{key} is {values[key]!r}, must be a list of {item.__name__}")
            values = {**values, key: tuple(values[key])}
    return dict(values)
