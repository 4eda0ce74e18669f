"""Shards: tar files as WebDataset lays them out, the same bytes for the same records, pictures as published."""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from services.trainer.data.folder import MixFolder
from services.trainer.data.shards import write_index, write_shard
from tests.services.trainer.data.conftest import make_mix
from tests.services.trainer.data.published import save
from triptych.errors import FailedPrecondition, InvalidArgument


def copy(made: MixFolder, tmp_path: Path) -> MixFolder:
    """Planned, its shards not yet written."""
    shutil.copytree(made.out, tmp_path / "out", ignore=shutil.ignore_patterns("shard-*", "index.json", "card.html"))
    return MixFolder(tmp_path / "out")


def test_a_shard_is_a_webdataset_shard(made: MixFolder) -> None:
    for shard in range(made.num_shards()):
        contents = json.loads(made.contents(shard).read_text())
        data = made.shard(shard).read_bytes()
        assert (contents["num_bytes"], contents["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        with tarfile.open(made.shard(shard)) as tar:
            names = tar.getnames()
            assert {(m.mtime, m.uid, m.uname) for m in tar} == {(0, 0, "")}
        keys = list(dict.fromkeys(name.split(".")[0] for name in names))
        assert keys == [row["key"] for row in contents["samples"]]
        assert keys == [f"{shard * 7 + i:09d}" for i in range(len(keys))]


def test_pictures_are_as_published(made: MixFolder) -> None:
    seen = set[str]()
    for shard in range(made.num_shards()):
        with tarfile.open(made.shard(shard)) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                if not member.name.endswith(".json"):
                    seen.add(hashlib.sha256(file.read()).hexdigest())
    published = [p for p in made.out.parent.rglob("*") if p.suffix in (".jpg", ".png") and made.out not in p.parents]
    assert seen
    assert seen <= {hashlib.sha256(path.read_bytes()).hexdigest() for path in published}


def test_made_again_it_is_the_same(made: MixFolder, tmp_path: Path) -> None:
    again = MixFolder.begin(made.mix, tmp_path / "again", tmp_path)
    make_mix(again.out)
    for path in [*made.out.glob("*.*")]:
        assert (again.out / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_written_shard_is_left_alone(made: MixFolder) -> None:
    before = made.shard(0).stat().st_mtime_ns
    write_shard(made.out, 0)
    write_shard(str(made.out), 0)
    assert made.shard(0).stat().st_mtime_ns == before


def test_a_shard_without_its_contents_is_written_again(made: MixFolder, tmp_path: Path) -> None:
    again = copy(made, tmp_path)
    again.shard(1).write_bytes(b"half")
    write_shard(again.out, 1)
    assert again.shard(1).read_bytes() == made.shard(1).read_bytes()
    assert again.contents(1).read_bytes() == made.contents(1).read_bytes()


def test_pictures_that_changed_are_an_error(made: MixFolder, tmp_path: Path) -> None:
    shutil.copytree(made.out.parent, tmp_path / "all")
    again = copy(made, tmp_path)
    values = json.loads((again.work / "mix.json").read_text())
    text = json.dumps(values).replace(str(made.out.parent), str(tmp_path / "all"))
    (again.work / "mix.json").write_text(text)
    for path in (tmp_path / "all/ip2p").rglob("*.jpg"):
        save(path, 77)
    with pytest.raises(FailedPrecondition, match="has changed since it was scanned"):
        for shard in range(again.num_shards()):
            write_shard(again.out, shard)
    shutil.rmtree(tmp_path / "all/ip2p/shard-00")
    with pytest.raises(FailedPrecondition, match="picture missing"):
        for shard in range(again.num_shards()):
            write_shard(again.out, shard)
    assert not list(again.out.glob("*.partial"))


def test_out_of_range_and_out_of_order(made: MixFolder, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="shard 6 of 6"):
        write_shard(made.out, 6)
    with pytest.raises(FailedPrecondition, match=r"shard-00000\.tar has not been written"):
        write_index(copy(made, tmp_path).out)


def test_the_index(made: MixFolder) -> None:
    index = json.loads(made.index.read_text())
    assert (index["name"], index["num_samples"], len(index["shards"])) == ("tiny", 40, 6)
    assert index["counts"] == made.plan_counts()
    assert str(made.out.parent) not in made.index.read_text()
    with Image.open(next(made.out.parent.rglob("*.jpg"))) as image:
        assert image.size == (96, 72)
