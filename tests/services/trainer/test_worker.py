"""One stage in this process: what it does not do again, and what it says of a full disk."""

import resource
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from services.trainer.done import write_done
from services.trainer.worker import run_stage
from tests.services.trainer.test_prepare import write_toml
from tests.services.trainer.test_tuning import stand_in
from tests.services.trainer.tiny_recipe import tiny_recipe
from tests.services.trainer.tuned import recipe
from triptych.errors import InvalidArgument, ResourceExhausted
from triptych.registry import Registry


def test_a_finished_mix_outlives_a_change_of_its_recipe(tmp_path: Path) -> None:
    made = recipe(stand_in(tmp_path), data=None, mix=str(write_toml(tmp_path)), runs=str(tmp_path / "runs"))
    folder = made.folder / "mix"
    (folder / "out").mkdir(parents=True)
    shard = folder / "out" / "shard-0"
    shard.write_text("of the other mix")
    write_done(folder, "before", {}, 1.0)
    with pytest.raises(InvalidArgument, match=r"mix was made by settings before, not \w+: delete or move it"):
        run_stage(made, "mix", 1)
    assert shard.read_text() == "of the other mix"


def test_a_full_disk_while_weights_are_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: object) -> dict[str, object]:
        save_file({"weight": np.zeros(1000, np.float32)}, tmp_path / "model.safetensors")
        return {}

    monkeypatch.setattr(Registry, "load", lambda *_: step)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(ResourceExhausted, match=r"tokenizer could not be written: .*File too large"):
            run_stage(tiny_recipe(runs=str(tmp_path / "runs")), "tokenizer", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
