from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.services.trainer.ranked_runs import Made, train_all
from tests.services.trainer.tiny_recipe import tiny_recipe, write_upstream


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of `tiny_recipe`'s stages with random weights; not to be changed."""
    return write_upstream(tiny_recipe(), tmp_path_factory.mktemp("upstream"))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Made]:
    """What one process and two ranks made of the toy, in all ways; not to be changed."""
    return train_all(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="session")
def tuning_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Imported checkpoints `genllava` and `llava`, and `mix` for the former; not to be changed."""
    from tests.services.trainer.tuned import write_bases, write_mix  # here: most tests need none of it

    root = write_bases(tmp_path_factory.mktemp("tuning"))
    write_mix(root, root / "genllava")
    return root
