"""Of two processes, one works in a folder; when it is gone, however, the next one may."""

import subprocess
import sys
from pathlib import Path

import pytest

from services.trainer.folder_lock import alone_in
from triptych.errors import Unavailable

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys, time
from pathlib import Path
from services.trainer.folder_lock import alone_in
with alone_in(Path(sys.argv[1])):
    print("here", flush=True)
    time.sleep(300)
"""


def test_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, folder], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"here\n"
        with pytest.raises(Unavailable, match="another trainer is at work in .*tiny"), alone_in(folder):
            raise AssertionError("two at a time")
        assert list(folder.iterdir()) == []
    finally:
        holder.kill()
        holder.wait()
    for _ in range(2):
        with alone_in(folder):
            pass
