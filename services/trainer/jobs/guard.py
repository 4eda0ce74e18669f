"""`python -m services.trainer.jobs.guard GRACE_S COMMAND...`: stands between a supervisor and what it starts.

It runs the command until it ends or stdin closes, as it does when the supervisor goes, however it goes. Then everything
that carries the job's mark ends with it. Exit code: the command's, or 128 and the number of the signal that ended it.
"""

import os
import signal
import subprocess
import sys
import threading
from typing import Final

from services.trainer.jobs.processes import MARK, die_with_parent, end_marked

STOPPED: Final = 130


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
    threading.Thread(target=_watch, args=(marks, grace_s), daemon=True).start()
    code = child.wait()
    end_marked(marks, grace_s=0)
    return 128 - code if code < 0 else code


def _begin() -> None:
    die_with_parent()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _watch(marks: dict[str, str], grace_s: float) -> None:
    os.read(0, 1)  # nothing ever comes
    end_marked(marks, grace_s)
    os._exit(STOPPED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
