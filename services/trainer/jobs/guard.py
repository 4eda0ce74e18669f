"""`python -m services.trainer.jobs.guard GRACE_S COMMAND...`: stands between a supervisor and what it starts.

It runs the command until it ends or stdin closes, as it does when the supervisor goes, however it goes. Then everything
that carries the job's mark ends with it. It does not wait longer than the supervisor has allowed on stdin, either: that
may be held up by a broker that does not answer. Exit code: the command's, or 128 and the number of the signal that
ended it; 130 when stdin closed, 124 when the time was over.
"""

import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import Final

from services.trainer.jobs.processes import MARK, die_with_parent, end_marked

STOPPED: Final = 130
EXPIRED: Final = 124
MOMENT: Final = "d"  # seconds of the monotonic clock, which all processes share
MAX_BYTES: Final = 512 * struct.calcsize(MOMENT)


def main(argv: list[str]) -> int:
    grace_s, command = float(argv[0]), argv[1:]
    marks = {MARK: os.environ[MARK]}
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # it ends when its stdin does
    try:
        # No thread runs yet, so a function between fork and exec is safe.
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_begin)  # noqa: PLW1509
    except OSError as error:
        sys.stderr.write(f"error: {command[0]}: {error.strerror}\n")
        return 2
    reasons: list[int] = []
    threading.Thread(target=_watch, args=(marks, grace_s, reasons), daemon=True).start()
    code = child.wait()
    end_marked(marks, grace_s=0)
    return reasons[0] if reasons else 128 - code if code < 0 else code


def _begin() -> None:
    die_with_parent()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _watch(marks: dict[str, str], grace_s: float, reasons: list[int]) -> None:
    reasons.append(_wait_for_end())
    end_marked(marks, grace_s)
    os._exit(reasons[0])


def _wait_for_end() -> int:
    """Until stdin closes, or the last moment that it named is over: which of them, as an exit code."""
    until_s: float | None = None
    while select.select([0], [], [], until_s and max(0.0, until_s - time.monotonic()))[0]:
        said = os.read(0, MAX_BYTES)
        if not said:
            return STOPPED
        (until_s,) = struct.unpack(MOMENT, said[-struct.calcsize(MOMENT) :])
    return EXPIRED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
