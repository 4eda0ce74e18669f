"""`python -m services.trainer.leash PARENT COMMAND...`: becomes the command, which is killed when the parent is gone.

A step between fork and exec would do the same, but is not safe in a process with threads.
"""

import os
import sys

from services.trainer.jobs.processes import die_with_parent


def leashed(command: list[str]) -> list[str]:
    """argv of a command that does not outlive the thread of this process that starts it."""
    return [sys.executable, "-m", "services.trainer.leash", str(os.getpid()), *command]


def main(argv: list[str]) -> int:
    parent, command = int(argv[0]), argv[1:]
    die_with_parent()
    if os.getppid() == parent:  # else it went before the kernel could know
        os.execvp(command[0], command)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
