"""`triptych export`: the path on stdout, the figures on stderr, exit codes as for every other command."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from tests.tiny import write_tiny_checkpoint
from triptych.card import read_card
from triptych.cli import app


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


def export(*args: str | Path) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, args)])


def test_whole_checkpoint_or_the_component_s_own_folder(made: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(made, tmp_path / "tiny"))
    done = export("encoder", checkpoint, "--format", "triton", "--max-batch-size", "2", "--triton-backend", "python")
    folder = checkpoint / "encoder" / "exports" / "triton-f32"
    assert (done.exit_code, done.stdout) == (0, f"{folder}\n"), done.stderr
    assert "lowest cosine to torch 0.99999" in done.stderr or "lowest cosine to torch 1.0" in done.stderr
    (config,) = folder.glob("encoder_*/config.pbtxt")
    assert "max_batch_size: 2" in config.read_text()
    assert export("encoder", checkpoint / "encoder").exit_code == 0
    assert sorted(read_card(checkpoint / "encoder").exports) == ["onnx-f32", "triton-f32"]


@pytest.mark.parametrize(
    ("args", "code", "complaint"),
    [
        (["encoder", "nowhere"], 2, "card.json is missing"),
        (["encoder", "{made}", "--precision", "fp16"], 2, "precision is 'fp16', must be one of f32, bf16, f16, int8"),
        (["encoder", "{made}", "--triton-backend", "tf"], 2, "must be one of onnxruntime, python"),
        (["decoder", "{made}/encoder"], 2, "holds the component encoder, not decoder"),
        (["llm", "{made}"], 1, "llm tiny 1.0.0 cannot be exported"),
    ],
)
def test_errors(made: Path, args: list[str], code: int, complaint: str) -> None:
    done = export(*(arg.format(made=made) for arg in args))
    assert (done.exit_code, done.stdout) == (code, "")
    assert complaint in " ".join(done.stderr.split())
    assert not (made / "encoder" / "exports").exists()


def test_missing_extra_is_named(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in [name for name in sys.modules if name.startswith(("triptych.models.export", "triptych.models.onnx"))]:
        monkeypatch.delitem(sys.modules, name)
    done = export("encoder", made)
    assert done.exit_code == 1
    assert "pip install 'triptych[encoder,export]'" in " ".join(done.stderr.split())
