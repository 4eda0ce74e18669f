"""Settings of the shell that runs the tests stay out of them; a tiny checkpoint for all."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.tiny import write_tiny_checkpoint


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("ENCODER_", "LLM_", "DECODER_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights at the smallest size; not to be changed."""
    torch.set_num_threads(1)
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def copied_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """One that may be changed."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "tiny"))
