"""Second step: every record of a piece is cut to length, its pictures are opened, its fingerprints taken."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from services.trainer.data.files import write_lines
from services.trainer.data.fingerprints import Signature, signature
from services.trainer.data.folder import MixFolder
from services.trainer.data.lengths import Cutter
from services.trainer.data.pictures import PictureFile, read_picture
from services.trainer.data.reading import bad_row
from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.base import below
from triptych.prompts import Task

HASH_DIGITS = 64


@dataclass(frozen=True)
class Scanned:
    """What is known of a record after it was looked at; `offset` and `num_bytes` find it in its source's records."""

    id: str
    position: int
    offset: int
    num_bytes: int
    task: Task
    tokens: int | None
    sha256s: tuple[str, ...]
    hashes: tuple[int, ...]
    signature: Signature

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "position": self.position,
            "offset": self.offset,
            "num_bytes": self.num_bytes,
            "task": self.task,
            "tokens": self.tokens,
            "sha256s": list(self.sha256s),
            "hashes": [f"{value:0{HASH_DIGITS}x}" for value in self.hashes],
            "signature": base64.b64encode(self.signature.astype("<u4").tobytes()).decode(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Scanned":
        hashes = tuple(int(value, 16) for value in values["hashes"])
        numbers = np.frombuffer(base64.b64decode(values["signature"]), dtype="<u4").astype(np.uint32)
        return cls(**{**values, "sha256s": tuple(values["sha256s"]), "hashes": hashes, "signature": numbers})


def scan_piece(out: Path | str, name: str, piece: int) -> None:
    """Writes a row for each record of the piece: what was found, or why it is bad. Idempotent."""
    folder = MixFolder(out)
    path = folder.scan(name, piece)
    if not path.exists():
        write_lines(path, _rows(folder, name, piece))


def _rows(folder: MixFolder, name: str, piece: int) -> Iterator[dict[str, Any]]:
    mix = folder.mix
    root = folder.source(name).pictures
    cutter = Cutter(mix.length) if mix.length else None

    @lru_cache(maxsize=8)  # questions about one picture follow each other
    def picture(relative: str) -> PictureFile:
        return read_picture(below(root, relative), mix.max_pixels)

    offset = folder.piece_offset(name, piece)
    with folder.records(name).open("rb") as file:
        file.seek(offset)
        for row in islice(file, mix.records_per_piece):
            values = json.loads(row)
            position, record = values["position"], Record.from_dict(values)
            try:
                record, tokens = cutter.cut(record) if cutter else (record, None)
                pictures = [picture(relative) for relative in record.pictures]
            except BadRecord as bad:
                yield {"bad": bad_row(name, position, bad)}
            else:
                shas, hashes = tuple(p.sha256 for p in pictures), tuple(p.hash for p in pictures)
                found = signature(compared_text(record))
                yield Scanned(record.id, position, offset, len(row), record.task, tokens, shas, hashes, found).to_dict()
            offset += len(row)


def compared_text(record: Record) -> str:
    """What the record says, without what its reader put in."""
    text = "\n".join(c for message in record.messages for c in message.contents if isinstance(c, str))
    for added in record.added:
        text = text.replace(added, " ")
    return text
