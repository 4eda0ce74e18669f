"""One service as a process of its own: started, watched, ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import triptych
from triptych.errors import TriptychError

NUM_TAIL_LINES: Final = 15


class Process:
    """`python -m services.<service>`, known as `name`: its log and its address file in `folder` are called so."""

    def __init__(self, name: str, service: str, folder: Path, flags: Mapping[str, str]) -> None:
        """Starts at once."""
        self.name = name
        self.service = service
        self.log = folder / f"{name}.log"
        self._address_file = folder / f"{name}.address"
        self._address_file.unlink(missing_ok=True)
        flags = {"--address-file": str(self._address_file), "--log-format": "text", **flags}
        command = [sys.executable, "-m", f"services.{service}", *(part for flag in flags.items() for part in flag)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                process_group=0,  # Ctrl-C is for us alone: we stop them in order
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def address(self) -> str:
        """Empty before it listens."""
        try:
            return self._address_file.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""

    def check(self) -> None:
        """Raises TriptychError with the end of its log when it has ended by itself."""
        if (code := self._process.poll()) is not None:
            ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise TriptychError(f"{self.name} {ended}; the end of {self.log}:\n{_tail(self.log)}", stage=self.service)

    def terminate(self) -> None:
        """SIGTERM: it may finish its calls."""
        self._process.terminate()

    def wait(self, deadline_s: float) -> None:
        """Until it has ended; SIGKILL when it has not by then (`time.monotonic`)."""
        try:
            self._process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self._process.kill()
        self._process.wait()


def _environment() -> dict[str, str]:
    """Ours, with the folder that holds `triptych` and `services` importable from wherever we stand."""
    root = str(Path(triptych.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-NUM_TAIL_LINES:])
