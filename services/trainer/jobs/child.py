"""The trainer's process of one task: started behind a guard, heard out, and stopped with all it started."""

import math
import os
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from services.trainer.jobs.guard import MOMENT
from services.trainer.jobs.processes import end_marked
from services.trainer.jobs.record import StageProgress
from services.trainer.progress import json_object

ROOT: Final = Path(__file__).parents[3]
MARGIN_S: Final = 5.0
MAX_TAIL_LINES: Final = 8
MAX_TAIL_BYTES: Final = 4096


class Child:
    """Runs from construction on. What it writes as JSON lines is progress; everything else goes to `log`."""

    def __init__(self, command: list[str], folder: Path, log: Path, marks: dict[str, str], grace_s: float) -> None:
        self.log, self._marks, self._grace_s = log, marks, grace_s
        self._heard: dict[str, StageProgress] = {}
        self._lock = threading.Lock()
        # Without site-packages, which it does not need, it is there at once.
        guard = [sys.executable, "-S", "-m", "services.trainer.jobs.guard", str(grace_s)]
        with log.open("ab") as errors:
            self._log_start_bytes = errors.tell()
            self._process = subprocess.Popen(
                [*guard, *command],
                cwd=folder,
                env=_environment(marks),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self, timeout_s: float) -> int | None:
        """The exit code, 128 and more for a signal; None while it runs."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(MARGIN_S)
        return 128 - code if code < 0 else code

    def allow_until(self, until_s: float) -> None:
        """Its guard ends it when this moment (of the monotonic clock) has come and no later one has been allowed,
        whatever holds us up."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended
            os.write(self._process.stdin.fileno(), struct.pack(MOMENT, until_s))

    def stop(self) -> None:
        """SIGTERM, then SIGKILL, to everything that belongs to it; returns when all of it is gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self.wait(self._grace_s + MARGIN_S) is None:
            self._process.kill()
            self._process.wait()
        end_marked(self._marks, grace_s=0)

    def take_progress(self) -> dict[str, StageProgress]:
        """What has been heard since the last call, by stage."""
        with self._lock:
            heard, self._heard = self._heard, {}
        return heard

    def error(self) -> str:
        """The end of what it wrote to stderr."""
        with self.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start_bytes, end - MAX_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-MAX_TAIL_LINES:])

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if (said := _progress(line)) is None:
                with suppress(OSError), self.log.open("ab") as log:  # a full disk: it must be heard out all the same
                    log.write(line)
                continue
            stage, progress = said
            with self._lock:
                figures = (
                    {**self._heard[stage].figures, **progress.figures} if stage in self._heard else progress.figures
                )
                self._heard[stage] = progress.model_copy(update={"figures": figures})


def _progress(line: bytes) -> tuple[str, StageProgress] | None:
    """None for a line that is no progress."""
    values = json_object(line)
    try:
        stage, step, steps = str(values.pop("stage")), int(values.pop("step", 0)), int(values.pop("steps", 0))
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    figures = {key: float(v) for key, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}
    return stage, StageProgress(step=step, steps=steps, figures=figures)


def _environment(marks: dict[str, str]) -> dict[str, str]:
    """Ours, marked, with this very `services` importable from the job's folder."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **marks, "PYTHONPATH": path}
