"""What is known of a base before it is loaded is what it turns out to be."""

from pathlib import Path

import pytest

from services.trainer.tuned_base import linear_layers
from services.trainer.tuning import Lora
from tests.services.trainer.tuned import LORA, recipe
from triptych.errors import InvalidArgument


@pytest.mark.parametrize("base", ["genllava", "llava"])
def test_linear_layers_of_an_imported_base(base: str, tuning_root: Path) -> None:
    assert linear_layers(tuning_root / base) == set(Lora().targets)  # all seven that its family has


def test_a_base_with_adapters_passes(tuning_root: Path) -> None:
    recipe(tuning_root, {"lora": LORA}).check()


def test_weights_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "model.safetensors").write_bytes(b"\0" * 4)
    with pytest.raises(InvalidArgument, match=r"base .*model\.safetensors: "):
        linear_layers(tmp_path)
