"""The lock around starting and stopping the embedded broker."""

import fcntl
import os
from pathlib import Path

from services.trainer.jobs.embedded import EmbeddedRedis


def test_a_child_forked_under_the_lock_does_not_keep_it(tmp_path: Path) -> None:
    """Celery's pool forks whenever it likes, also while another thread holds the lock."""
    ours, theirs = os.pipe()
    with EmbeddedRedis(tmp_path).locked():
        child = os.fork()
        if child == 0:
            os.close(theirs)
            os.read(ours, 1)  # until the parent is through
            os._exit(0)
    is_free = can_lock(tmp_path / "lock")
    os.close(theirs)
    os.waitpid(child, 0)
    assert is_free


def test_a_full_disk_that_took_no_address_is_got_over(tmp_path: Path) -> None:
    broker = EmbeddedRedis(tmp_path)
    (tmp_path / "address").touch()
    try:
        assert broker.start() == tmp_path / "redis.sock"
    finally:
        broker.stop()


def can_lock(path: Path) -> bool:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
