"""One stage in this process: what it does not do again."""

from pathlib import Path

import pytest

from services.trainer.done import write_done
from services.trainer.worker import run_stage
from tests.services.trainer.test_prepare import write_toml
from tests.services.trainer.test_tuning import stand_in
from tests.services.trainer.tuned import recipe
from triptych.errors import InvalidArgument


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
