"""A mix begins only when everything it needs is there; what went wrong names the source."""

import json
import shutil
from pathlib import Path

import pytest

from services.trainer.data.folder import MixFolder
from services.trainer.data.mix import Mix
from services.trainer.data.phases import phases
from tests.services.trainer.data.conftest import make_mix
from tests.services.trainer.data.published import write_gvit
from triptych.errors import FailedPrecondition, InvalidArgument


def begin(mix: Mix, out: Path) -> MixFolder:
    return MixFolder.begin(mix, out, out.parent)


def test_begins_and_goes_on_under_the_same_recipe(tmp_path: Path) -> None:
    mix = write_gvit(tmp_path, 2)
    folder = begin(mix, tmp_path / "out")
    begin(mix, tmp_path / "out")
    assert folder.mix == mix
    assert MixFolder(tmp_path / "out").source("llava").pictures == tmp_path / "llava/images"
    with pytest.raises(InvalidArgument, match="begun by another recipe"):
        begin(mix.model_copy(update={"seed": 1}), tmp_path / "out")


def test_relative_paths_are_taken_from_the_root(tmp_path: Path) -> None:
    mix = write_gvit(tmp_path, 2)
    values = json.loads(mix.model_dump_json().replace(f"{tmp_path}/", ""))
    folder = MixFolder.begin(Mix.model_validate(values), tmp_path / "out", tmp_path)
    assert folder.mix.sources == mix.sources


@pytest.mark.parametrize("name", ["sharegpt", "pretrain", "llava", "docvqa", "ip2p"])
def test_a_missing_source(tmp_path: Path, name: str) -> None:
    mix = write_gvit(tmp_path, 2)
    path = mix.source(name).config.path
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(InvalidArgument, match=f"source {name}: .*does not exist"):
        begin(mix, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_source_and_no_tokenizer(tmp_path: Path) -> None:
    mix = write_gvit(tmp_path, 2)
    mix.source("sharegpt").config.path.write_text("[]")
    with pytest.raises(InvalidArgument, match="source sharegpt: .*is empty"):
        begin(mix, tmp_path / "out")
    assert mix.length is not None
    (tmp_path / "other").mkdir()
    (tmp_path / "other/tokenizer.json").write_text('{"model": {"type": "other"}}')
    length = mix.length.model_copy(update={"tokenizer": tmp_path / "other"})
    with pytest.raises(InvalidArgument, match=r"other/tokenizer\.json: "):
        begin(mix.model_copy(update={"length": length}), tmp_path / "out")
    length = mix.length.model_copy(update={"tokenizer": tmp_path})
    with pytest.raises(InvalidArgument, match=r"tokenizer\.json"):
        begin(mix.model_copy(update={"length": length}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_place_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InvalidArgument, match="is a file"):
        begin(write_gvit(tmp_path, 2), tmp_path / "out")


def test_shards_outlive_the_work(tmp_path: Path) -> None:
    mix, out = write_gvit(tmp_path, 2), tmp_path / "out"
    out.mkdir()
    (out / "shard-00000.tar").write_bytes(b"")
    with pytest.raises(InvalidArgument, match="begun by another recipe"):
        begin(mix, out)
    (out / "index.json").write_text(json.dumps({"digest": mix.digest}))
    begin(mix, out)


def test_a_finished_mix_needs_nothing(tmp_path: Path) -> None:
    """Neither what it was made with nor what it was made of, and nothing in it changes."""
    mix, out = write_gvit(tmp_path / "data", 2), tmp_path / "out"
    begin(mix, out)
    make_mix(out)
    for gone in (out / "work", tmp_path / "data"):
        shutil.rmtree(gone)
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert list(phases(begin(mix, out))) == []
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(InvalidArgument, match="begun by another recipe"):
        begin(mix.model_copy(update={"seed": 1}), out)


def test_nothing_begun(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="no mix was begun"):
        assert MixFolder(tmp_path).mix
    with pytest.raises(FailedPrecondition, match="the step before"):
        MixFolder(tmp_path).num_shards()
