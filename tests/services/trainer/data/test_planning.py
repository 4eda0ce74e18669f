"""From entries to a plan: what is left out is counted and listed by reason, and the shares are kept."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from services.trainer.data.folder import MixFolder
from services.trainer.data.planning import plan_mix
from services.trainer.data.reading import read_source
from services.trainer.data.scanning import scan_piece
from tests.services.trainer.data.published import turn, write, write_gvit
from triptych.errors import FailedPrecondition, InvalidArgument


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_left_out_is_listed(made: MixFolder) -> None:
    assert [(r["source"], r["position"], r["reason"]) for r in rows(made.out / "bad.jsonl")] == [
        ("llava", 17, "picture missing"),
        ("llava", 18, "picture unreadable"),
    ]
    duplicates = rows(made.out / "duplicates.jsonl")
    assert duplicates == [{"source": "llava", "position": 16, "id": "again", "repeats": "llava/000000000000"}]
    llava = made.plan_counts()["llava"]
    assert llava["read"] == 19
    assert llava["bad"] == {"picture missing": 1, "picture unreadable": 1}
    assert (llava["duplicates"], llava["usable"]) == (1, 16)


def test_shares_are_kept(made: MixFolder) -> None:
    """Editing has the fewest for its share: 8 for 20 percent, so 40 in all."""
    counts = made.plan_counts()
    in_mix = {name: count["in_mix"] for name, count in counts.items()}
    assert in_mix == {"sharegpt": 4, "ip2p": 8, "pretrain": 12, "llava": 11, "docvqa": 5}
    planned = [row["source"] for shard in range(made.num_shards()) for row in rows(made.plan(shard))]
    assert Counter(planned) == Counter(in_mix)
    assert made.num_shards() == 6
    assert sorted(planned) != planned


def test_nothing_twice(made: MixFolder) -> None:
    planned = [(r["source"], r["offset"]) for shard in range(made.num_shards()) for r in rows(made.plan(shard))]
    assert len(set(planned)) == len(planned) == 40


def test_steps_in_order(tmp_path: Path) -> None:
    mix = write_gvit(tmp_path, 2)
    out = tmp_path / "out"
    MixFolder.begin(mix, out, tmp_path)
    with pytest.raises(FailedPrecondition, match="the step before"):
        scan_piece(out, "llava", 0)
    for config in mix.sources:
        read_source(out, config.name)
    with pytest.raises(FailedPrecondition, match="source sharegpt: piece 0 has not been scanned"):
        plan_mix(out)
    with pytest.raises(InvalidArgument, match="source llava: piece 9 of 1"):
        scan_piece(out, "llava", 9)
    with pytest.raises(InvalidArgument, match="unknown source"):
        read_source(out, "lava")


def test_a_source_with_nothing_usable(tmp_path: Path) -> None:
    mix = write_gvit(tmp_path, 2)
    write(mix.source("sharegpt").config.path, [{"id": "a", "conversations": [turn("human", "x")]}, 3])
    out = tmp_path / "out"
    MixFolder.begin(mix, out, tmp_path)
    for config in mix.sources:
        read_source(out, config.name)
        for piece in range(MixFolder(out).num_pieces(config.name)):
            scan_piece(out, config.name, piece)
    with pytest.raises(
        FailedPrecondition, match="source sharegpt: nothing usable.*no conversation.*malformed|malformed"
    ):
        plan_mix(out)
