"""Worker processes that are only just starting do not hear Ctrl-C: nothing in them could end without a word yet."""

import signal
import time
from multiprocessing import active_children
from pathlib import Path

from services.trainer.pool import worker_pool


def is_held(pid: int | None) -> bool:
    """Whether SIGINT waits, as the kernel has it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = [int(line.split()[1], 16) for line in lines if line.startswith("SigBlk:")]
    return bool(mask >> (signal.SIGINT - 1) & 1)


def test_ctrl_c_waits_until_a_worker_has_begun() -> None:
    with worker_pool(2) as pool:
        for _ in range(2):
            pool.submit(time.sleep, 0)
        assert [is_held(child.pid) for child in active_children()] == [True, True]
        assert pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result(60) == set()
