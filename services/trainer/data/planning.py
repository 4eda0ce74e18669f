"""Third step: near-duplicates go, the mix is drawn by its shares, and every shard gets its list of records."""

import random
from collections import Counter
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

from services.trainer.data.dedup import Deduplicator
from services.trainer.data.files import read_json, read_lines, write_json, write_lines
from services.trainer.data.folder import MixFolder
from services.trainer.data.scanning import Scanned
from triptych.errors import FailedPrecondition

Row = tuple[int, int, int | None, tuple[bytes, ...]]  # offset, bytes, tokens, digests of the pictures


def plan_mix(out: Path | str) -> None:
    """Writes the plan of every shard, `bad.jsonl` and `duplicates.jsonl`. Idempotent; needs every piece scanned.

    Raises FailedPrecondition when a piece is missing, a source has nothing usable, or a group too little for the size.
    """
    folder = MixFolder(out)
    if folder.plan_mark.exists():
        return
    mix = folder.mix
    bad: list[dict[str, Any]] = []
    duplicates: list[dict[str, Any]] = []
    kept = _kept(folder, bad, duplicates)
    counts = _counts(folder, bad, duplicates)
    for name, rows in kept.items():
        if not rows:
            raise FailedPrecondition(f"source {name}: nothing usable, {counts[name]}")
    limited = {c.name: _draw(kept[c.name], c.limit, f"{mix.seed}/{c.name}/limit") for c in mix.sources}
    quotas = mix.quotas({name: len(rows) for name, rows in limited.items()})
    chosen = [(n, r) for n, rows in limited.items() for r in _draw(rows, quotas[n], f"{mix.seed}/{n}/mix")]
    random.Random(f"{mix.seed}/order").shuffle(chosen)
    if not chosen:
        raise FailedPrecondition(f"no sample at all: usable are { ({name: len(r) for name, r in kept.items()}) }")
    num_shards = -(-len(chosen) // mix.samples_per_shard)
    for shard in range(num_shards):
        part = chosen[shard * mix.samples_per_shard : (shard + 1) * mix.samples_per_shard]
        write_lines(folder.plan(shard), (_planned(name, row) for name, row in part))
    for name, rows in kept.items():
        counts[name] |= {"usable": len(rows), "in_mix": quotas[name]}
    write_lines(folder.out / "bad.jsonl", bad)
    write_lines(folder.out / "duplicates.jsonl", duplicates)
    write_json(folder.plan_mark, {"num_shards": num_shards, "num_samples": len(chosen), "counts": counts})


def _kept(folder: MixFolder, bad: list[dict[str, Any]], duplicates: list[dict[str, Any]]) -> dict[str, list[Row]]:
    """What remains of each source, in its order; earlier sources win. Fills `bad` and `duplicates`."""
    deduplicator = Deduplicator(folder.mix.dedup)
    kept: dict[str, list[Row]] = {}
    for config in folder.mix.sources:
        rows = kept.setdefault(config.name, [])
        refused = list(read_lines(folder.bad(config.name)))
        for values in _scanned(folder, config.name):
            if "bad" in values:
                refused.append(values["bad"])
                continue
            found = Scanned.from_dict(values)
            repeats = deduplicator.original(f"{config.name}/{found.id}", found)
            if repeats is None:
                shas = tuple(bytes.fromhex(sha) for sha in found.sha256s)
                rows.append((found.offset, found.num_bytes, found.tokens, shas))
            else:
                row = {"source": config.name, "position": found.position, "id": found.id, "repeats": repeats}
                duplicates.append(row)
        bad += sorted(refused, key=itemgetter("position"))
    return kept


def _scanned(folder: MixFolder, name: str) -> Iterator[dict[str, Any]]:
    for piece in range(folder.num_pieces(name)):
        path = folder.scan(name, piece)
        if not path.exists():
            raise FailedPrecondition(f"source {name}: piece {piece} has not been scanned")
        yield from read_lines(path)


def _counts(
    folder: MixFolder, bad: list[dict[str, Any]], duplicates: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    reasons: dict[str, Counter[str]] = {}
    for row in bad:
        reasons.setdefault(row["source"], Counter())[row["reason"]] += 1
    repeated = Counter(row["source"] for row in duplicates)
    return {
        c.name: {
            "read": read_json(folder.read_mark(c.name))["num_read"],
            "bad": dict(sorted(reasons.get(c.name, Counter()).items())),
            "duplicates": repeated[c.name],
        }
        for c in folder.mix.sources
    }


def _draw(rows: list[Row], number: int | None, seed: str) -> list[Row]:
    """So many of them, by seed, in their order."""
    if number is None or number >= len(rows):
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), number))]


def _planned(source: str, row: Row) -> dict[str, Any]:
    offset, num_bytes, tokens, shas = row
    return {
        "source": source,
        "offset": offset,
        "num_bytes": num_bytes,
        "tokens": tokens,
        "sha256s": [sha.hex() for sha in shas],
    }
