"""A module that has no graph is an error of ours, which says why."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from triptych.errors import ExportError
from triptych.models.onnx_graph import write_graph


class Unwritable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AttributeError("the norm has no eps\nand more lines")


def test_what_the_exporter_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^head cannot be written as a graph in f16: AttributeError: .*no eps$"):
        write_graph(Unwritable(), {"x": torch.zeros(2, 3)}, "y", tmp_path / "head.onnx", "f16")
    assert not list(tmp_path.iterdir())
    assert torch.backends.mha.get_fastpath_enabled()
