"""The benchmark's source is whole, its script packs what prepare packs, and its figures are what they say."""

import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.plot import plot_rates
from benchmarks.prepare import figures, plain_script, write_source
from services.trainer.data.folder import MixFolder
from services.trainer.data.reader import ShardReader
from tests.services.trainer.data.conftest import make_mix


def test_the_script_packs_what_prepare_packs(tmp_path: Path) -> None:
    mix = write_source(tmp_path, 24, 6)
    plain_script(tmp_path, tmp_path / "script")
    with tarfile.open(tmp_path / "script/00000.tar") as tar:
        contents = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    packed = {
        json.loads(data)["id"]: contents[name.replace("json", "jpg")]
        for name, data in contents.items()
        if name.endswith("json")
    }
    reader = ShardReader(make_mix(MixFolder.begin(mix, tmp_path / "out", tmp_path).out).out)
    samples = [reader.read(0, place) for place in range(24)]
    assert {sample.record.id: sample.pictures[0] for sample in samples} == packed


def test_figures(tmp_path: Path) -> None:
    seconds = {"1 worker": [4.0, 4.0], "plain script": [2.0, 2.0]}
    found = figures(seconds, 100, 8_000_000)
    assert found["1 worker"] == {
        "seconds": [4.0, 4.0],
        "records_per_s": 25.0,
        "megabytes_per_s": pytest.approx(2.0),
        "ratio": 0.5,
    }
    assert found["plain script"]["ratio"] == 1
    plot_rates({name: result["records_per_s"] for name, result in found.items()}, tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").size == (900, 128)
