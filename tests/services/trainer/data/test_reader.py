"""Samples back: whole, in an order that the seed alone decides, from any position, on any number of ranks."""

import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from services.trainer.data.folder import MixFolder
from services.trainer.data.reader import ShardReader
from triptych.errors import FailedPrecondition, InvalidArgument
from triptych.prompts import Picture


def keys(reader: ShardReader, start: int, num: int) -> list[str]:
    return [sample.key for _, sample in islice(reader.stream(start), num)]


def test_every_sample_once_an_epoch(made: MixFolder) -> None:
    reader = ShardReader(made.out)
    assert len(reader) == 40
    first, second = keys(reader, 0, 40), keys(reader, 40, 40)
    assert sorted(first) == sorted(second) == [f"{i:09d}" for i in range(40)]
    assert first != second
    assert first != sorted(first)


def test_samples_are_whole(made: MixFolder) -> None:
    groups: Counter[str] = Counter()
    for _, sample in ShardReader(made.out).stream(stop=40):
        sample.record.check()
        groups[sample.group] += 1
        assert sample.tokens is not None
        assert sample.tokens <= 400
        assert len(sample.pictures) == len(sample.record.pictures)
        assert all(data[:2] in (b"\xff\xd8", b"\x89P") for data in sample.pictures)
        drawn = any(isinstance(c, Picture) for m in sample.record.messages[1::2] for c in m.contents)
        assert drawn == (sample.group in ("editing", "generation"))
    assert groups == {"language": 4, "editing": 8, "generation": 12, "understanding": 16}


def test_the_seed_decides(made: MixFolder) -> None:
    assert keys(ShardReader(made.out, 1), 0, 40) == keys(ShardReader(made.out, 1), 0, 40)
    assert keys(ShardReader(made.out, 1), 0, 40) != keys(ShardReader(made.out, 2), 0, 40)


@pytest.mark.parametrize("start", [1, 39, 40, 41, 73])
def test_goes_on_anywhere(made: MixFolder, start: int) -> None:
    reader = ShardReader(made.out, 5)
    assert keys(ShardReader(made.out, 5), start, 12) == keys(reader, 0, start + 12)[start:]


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("start", [0, 10])
def test_ranks_share_one_stream(made: MixFolder, world_size: int, start: int) -> None:
    whole = dict(ShardReader(made.out, 3).stream(start, 60))
    parts = [dict(ShardReader(made.out, 3, rank=r, world_size=world_size).stream(start, 60)) for r in range(world_size)]
    assert sum(map(len, parts)) == len(whole)
    assert {p: s.key for part in parts for p, s in part.items()} == {p: s.key for p, s in whole.items()}


def test_impossible_ranks_and_starts(made: MixFolder) -> None:
    for rank, world_size in ((1, 1), (-1, 2), (0, 0)):
        with pytest.raises(InvalidArgument, match=f"rank {rank} of {world_size}"):
            ShardReader(made.out, rank=rank, world_size=world_size)
    with pytest.raises(InvalidArgument, match="start -1"):
        next(ShardReader(made.out).stream(-1))


def test_what_is_not_whole_is_refused(made: MixFolder, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="holds no finished mix"):
        ShardReader(tmp_path)
    shutil.copytree(made.out, tmp_path / "out", ignore=shutil.ignore_patterns("work"))
    shard = tmp_path / "out/shard-00002.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(FailedPrecondition, match=r"shard-00002\.tar is missing or not whole"):
        ShardReader(tmp_path / "out").read(2, 0)
    shard.write_bytes(bytes(len(data)))
    with pytest.raises(FailedPrecondition, match=r"shard-00002\.tar: sample 000000014 is damaged"):
        ShardReader(tmp_path / "out").read(2, 0)
    (tmp_path / "out/index.json").write_text("{")
    with pytest.raises(FailedPrecondition, match=r"index\.json"):
        ShardReader(tmp_path / "out")
