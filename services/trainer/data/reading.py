"""First step: a source's entries become records."""

import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from services.trainer.data.files import atomic, line, write_first
from services.trainer.data.folder import MixFolder
from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.base import Source


def read_source(out: Path | str, name: str) -> None:
    """Writes the source's records, and lists its bad ones. Idempotent; of two runs at the same time, the first to end
    counts. Raises InvalidArgument when the file itself is damaged."""
    folder = MixFolder(out)
    if folder.read_mark(name).exists():
        return
    source, step, run = folder.source(name), folder.mix.records_per_piece, uuid.uuid4().hex
    files = folder.records(name, run), folder.bad(name, run)
    pieces: list[int] = []
    reasons: Counter[str] = Counter()
    number = 0
    with atomic(files[0]) as good, atomic(files[1]) as bad:
        for position, made in enumerate(_made(source)):
            if isinstance(made, BadRecord):
                reasons[made.reason] += 1
                bad.write(line(bad_row(name, position, made)))
                continue
            if number % step == 0:
                pieces.append(good.tell())
            good.write(line({"position": position, **made.to_dict()}))
            number += 1
    read = number + sum(reasons.values())
    mark = {"run": run, "num_read": read, "num_records": number, "bad": reasons, "pieces": pieces}
    if not write_first(folder.read_mark(name), mark):
        for path in files:
            path.unlink()


def bad_row(source: str, position: int, error: BadRecord) -> dict[str, object]:
    """`position` counts the entries of the source from 0."""
    return {"source": source, "position": position, "reason": error.reason, "detail": error.detail}


def _made(source: Source) -> Iterator[Record | BadRecord]:
    """In the order of the entries, whatever is done at the same time."""
    if source.max_concurrency == 1:
        yield from (_make(source, *numbered) for numbered in enumerate(source.entries()))
        return
    with ThreadPoolExecutor(source.max_concurrency) as threads:
        yield from threads.map(lambda numbered: _make(source, *numbered), enumerate(source.entries()))


def _make(source: Source, position: int, entry: object) -> Record | BadRecord:
    try:
        return source.record(entry, position)
    except BadRecord as bad:
        return bad
