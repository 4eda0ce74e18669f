"""The harness resets what it should, counts what it should, and its clocks jump."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.circumstances import ROOT
from benchmarks.faults import Suffered, figures, line
from benchmarks.load import Outcome, jobs
from benchmarks.plot import plot_faults
from benchmarks.proxy import Proxy


@pytest.fixture
def echo() -> Iterator[str]:
    """Sends back what it gets."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,)).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_proxy_passes_on_and_resets(echo: str) -> None:
    with Proxy(echo) as proxy:
        host, _, port = proxy.address.rpartition(":")
        for _ in range(2):  # after a reset, too
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(b"hello")
                assert connection.recv(100) == b"hello"
                proxy.reset()
                with pytest.raises(ConnectionResetError):
                    connection.recv(100)


def test_same_jobs_every_time() -> None:
    made = jobs(6, steps=4)
    assert [job.task for job in made] == ["understand", "generate", "edit"] * 2
    assert [job.text for job in made] == [job.text for job in jobs(6, steps=4)]
    assert {job.params.temperature for job in made} == {None, 0.7}


def test_failures_and_differences_are_counted(tmp_path: Path) -> None:
    def outcome(index: int, ms: float, answer: str, error: str = "") -> Outcome:
        return Outcome(index, "generate", 0.0, ms, answer, error)

    before = [outcome(0, 100, "a"), outcome(1, 200, "b")]
    during = [outcome(0, 300, "a"), outcome(1, 400, "x"), outcome(1, 500, "", "UNAVAILABLE: gone")]
    result = figures(Suffered(before, during, 123.0), {0: "a", 1: "b"})
    assert (result["num_requests"], result["num_failures"], result["num_different"]) == (3, 1, 1)
    assert (result["num_before"], result["num_wrong_before"]) == (2, 0)
    assert result["added_ms"]["p50"] == 400 - 150
    assert "3 requests, 1 failed, 1 different" in line("SIGKILL", result)
    plot_faults({"SIGKILL": result}, tmp_path / "faults.png")
    assert Image.open(tmp_path / "faults.png").width == 1100


@pytest.mark.skipif(shutil.which("cc") is None, reason="takes a C compiler")
def test_clock_jumps_in_another_process(tmp_path: Path) -> None:
    library, file = tmp_path / "clock_jump.so", tmp_path / "jump"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, ROOT / "benchmarks" / "clock_jump.c", "-ldl"], check=True)
    file.write_bytes(struct.pack("q", 3600))
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time(), time.monotonic())"],
        env=os.environ | {"LD_PRELOAD": str(library), "CLOCK_JUMP_FILE": str(file)},
        capture_output=True,
        text=True,
        check=True,
    )
    wall, monotonic = map(float, told.stdout.split())
    assert wall - time.time() == pytest.approx(3600, abs=60)
    assert monotonic - time.monotonic() == pytest.approx(0, abs=60)
