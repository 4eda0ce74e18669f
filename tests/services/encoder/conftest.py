"""The tiny checkpoint with its encoder exported, as an operator leaves it."""

import shutil
from pathlib import Path

import pytest

from triptych.models.export import ExportConfig, export_component
from triptych.models.triton_repository import TritonConfig


@pytest.fixture(scope="session")
def exported_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With onnx-f32, onnx-int8 and triton-f32; not to be changed."""
    checkpoint = Path(shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("exported") / "tiny"))
    for config in (
        ExportConfig(),
        ExportConfig(precision="int8"),
        ExportConfig(format="triton", triton=TritonConfig(backend="python")),
    ):
        export_component(checkpoint / "encoder", config)
    return checkpoint


@pytest.fixture
def copied_export(exported_checkpoint: Path, tmp_path: Path) -> Path:
    """One that may be changed."""
    return Path(shutil.copytree(exported_checkpoint, tmp_path / "exported"))
