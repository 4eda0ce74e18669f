"""compose.yaml as podman-compose runs it: four containers on networks of their own, used from this machine."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helm.cluster import OK, draw_ask_edit_with
from tests.helm.podman import Podman
from tests.integration.processes import ROOT, TRIPTYCH, run, wait_until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

FILE = ROOT / "docker" / "compose.yaml"
ADDRESS = "127.0.0.1:50050"
SERVICES = ("encoder", "llm", "decoder", "orchestrator")


def compose(podman: Podman, *args: str) -> None:
    command = ("podman-compose", "--file", str(FILE), *args)
    done = subprocess.run(command, env=podman.environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def running(podman: Podman) -> Iterator[None]:
    if shutil.which("podman-compose") is None:
        pytest.skip("podman-compose is not installed: pip install podman-compose")
    if not podman.has_names:
        pytest.skip("podman has no names on its networks: install netavark and aardvark-dns")
    for image in re.findall(r"image: (\S+)", FILE.read_text(encoding="utf-8")):
        podman.require_image(image.replace("${VARIANT:-cpu}", os.environ.get("VARIANT", "cpu")))
    try:
        compose(podman, "up", "--detach", "--no-build")
        yield
    finally:
        compose(podman, "down")


def test_ask_draw_edit(running: None, tmp_path: Path) -> None:
    def triptych(*args: str) -> "subprocess.CompletedProcess[str]":
        return run(*TRIPTYCH, *args, cwd=tmp_path, TRIPTYCH_ADDRESS=ADDRESS)

    wait_until(lambda: triptych("status").stdout.count("\tserving") == 3, "three components serve")
    draw_ask_edit_with(triptych, tmp_path)
    assert triptych("health").returncode == OK


def test_only_the_orchestrator_is_reached_from_outside(running: None, podman: Podman) -> None:
    for service in SERVICES:
        ports = podman("port", f"triptych_{service}_1").strip()
        assert ports == ("50050/tcp -> 127.0.0.1:50050" if service == "orchestrator" else "")
