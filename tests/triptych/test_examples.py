import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.triptych.fake_orchestrator import FakeOrchestrator, png

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("ask", ["in.png", "what is it?"], "a red circle\n"),
        ("draw", ["a circle", "out.png"], "out.png: 8x8, seed 5\n"),
        ("edit", ["in.png", "make it blue", "out.png"], "out.png\n"),
        ("chat_stream", ["out.png"], "out.png\n"),
    ],
)
def test_example(server: FakeOrchestrator, tmp_path: Path, name: str, args: list[str], expected: str) -> None:
    (tmp_path / "in.png").write_bytes(png())
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TRIPTYCH_ADDRESS": server.address}
    command = [sys.executable, ROOT / "examples" / f"{name}.py", *args]
    assert subprocess.check_output(command, cwd=tmp_path, env=env, text=True, timeout=30) == expected
    assert (tmp_path / "out.png").exists() == ("out.png" in args)
