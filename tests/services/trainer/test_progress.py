"""What a stage says on stdout, and what becomes of it."""

import subprocess
import sys
import threading
from pathlib import Path

from services.trainer.progress import Lines, relay

NOISE = ["node7:123:123 [0] NCCL INFO Bootstrap : Using eth0", "[1, 2]", '{"step": 1}', '{"step": "a", "steps": 2}']
STAGE = f"""
import json
for line in {NOISE!r}:
    print(line)
print("\\udcff\\udcfe".encode("utf-8", "surrogateescape"), flush=True)
for step in range(3000):  # many times what a pipe holds
    print(json.dumps({{"step": step, "steps": 3000, "loss": 0.5, "gradient_norm": 1.0}}))
"""


class Recorder(Lines):
    """One that breaks once, as stdout does when it is a file on a full disk."""

    def __init__(self) -> None:
        self.shown: list[float] = []

    def show(self, stage: str, figures: dict[str, float]) -> None:
        self.shown.append(figures["step"])
        if figures["step"] == 5:
            raise OSError(28, "No space left on device")


def heard_out(log: Path) -> list[float]:
    """The steps shown of a stage that must not be kept waiting."""
    display = Recorder()
    process = subprocess.Popen([sys.executable, "-S", "-c", STAGE], stdout=subprocess.PIPE)
    reader = threading.Thread(target=relay, args=(process, "vae", log, display), daemon=True)
    reader.start()
    try:
        assert process.wait(60) == 0
    finally:
        process.kill()
    reader.join(60)
    return display.shown


def test_lines_that_are_no_reports_go_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "vae.log"
    assert heard_out(log) == list(range(3000))
    assert log.read_text().splitlines()[: len(NOISE)] == NOISE


def test_a_log_that_cannot_be_written_keeps_nobody_waiting(tmp_path: Path) -> None:
    assert heard_out(tmp_path / "no folder" / "vae.log") == list(range(3000))
