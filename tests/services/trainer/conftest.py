from pathlib import Path

import pytest

from tests.services.trainer.tiny_recipe import tiny_recipe, write_upstream


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of `tiny_recipe`'s stages with random weights; not to be changed."""
    return write_upstream(tiny_recipe(), tmp_path_factory.mktemp("upstream"))
