"""What figures depend on, told beside them."""

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def circumstances(*libraries: str, **more: Any) -> dict[str, Any]:
    """Machine, versions, commit, and how busy the machine is before anything is measured."""
    cpus = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    commit, changed = _output("git", "rev-parse", "HEAD"), _output("git", "status", "--porcelain")
    return {
        **more,
        "commit": commit + (" with uncommitted changes" if changed else ""),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in libraries}},
        "machine": {"system": platform.platform(), "cpu": cpus[0] if cpus else "", "num_cpus": os.cpu_count()},
        "load_average_before": os.getloadavg(),
        "time_utc": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
