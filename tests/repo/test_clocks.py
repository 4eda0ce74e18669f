"""Serving goes by a clock that nobody sets. benchmarks/faults.py sets the clocks of whole processes and looks."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVING = ("services/orchestrator", "services/encoder", "services/llm", "services/decoder", "triptych/serving")
BY_THE_CALENDAR = {"services/orchestrator/door.py"}  # a caller's requests in a day


def reads_wall_clock(path: Path) -> bool:
    """`time.time`, called or passed on; times of log lines and certificates are datetimes."""
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in ("time", "time_ns")
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def test_durations_and_deadlines_are_monotonic() -> None:
    files = [path for folder in SERVING for path in (ROOT / folder).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in files if reads_wall_clock(path)}
    assert found == BY_THE_CALENDAR
