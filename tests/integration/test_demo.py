"""What `make demo` runs, over random weights: it must show that everything is wrong, and that nothing failed."""

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.processes import ROOT, run

DEMO = (sys.executable, ROOT / "examples" / "demo.py")


def test_whole_demo(system_checkpoint: Path, tmp_path: Path) -> None:
    done = run(*DEMO, "--checkpoint", system_checkpoint, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    transcript = done.stdout
    assert "encoder tiny 1.0.0, llm tiny 1.0.0, decoder tiny 1.0.0 and the orchestrator serve after" in transcript
    assert transcript.count("wrong, expected: ") == 11
    assert transcript.count("the reader sees: ") == 8
    assert "right: " not in transcript
    for row in ("questions", "drawings", "edits", "conversation"):
        assert any(row in line and "0 of " in line for line in transcript.splitlines())
    sizes = {path.stem: Image.open(path).size for path in (tmp_path / "demo").glob("*.png")}
    given = [f"{name}-{number}" for name in ("picture", "before") for number in (1, 2, 3)]
    made = [f"{name}-{number}" for name in ("drawing", "after") for number in (1, 2, 3)]
    made += ["conversation-1", "conversation-2"]
    assert sizes.keys() == {"contact-sheet", *given, *made}
    assert {sizes[name] for name in given} == {(64, 64)}
    assert {sizes[name] for name in made} == {(16, 16)}
    assert sizes["contact-sheet"][0] > 1000
    assert len(list((tmp_path / "demo" / "logs").glob("*.log"))) == 4


@pytest.mark.parametrize("damage", ["missing", "half-copied"])
def test_without_a_whole_checkpoint(system_checkpoint: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "checkpoint"
    if damage == "half-copied":
        shutil.copytree(system_checkpoint, folder)
        shutil.rmtree(folder / "decoder" / "unet")
    done = run(*DEMO, "--checkpoint", folder, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert str(folder) in done.stderr
    assert not (tmp_path / "demo").exists()
