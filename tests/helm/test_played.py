"""The CPU example as podman plays it: pictures drawn, asked about and edited through what the chart renders, in the
images of docker/Dockerfile. `make chart-e2e`; test_played_guarded.py is the same behind TLS and keys.
"""

import time
from collections.abc import Iterator

import pytest

from tests.helm.cluster import OK, UNAVAILABLE, Cluster, cluster, draw_ask_edit
from tests.helm.podman import Podman

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def plain(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = cluster(podman, tmp_path_factory.mktemp("plain"), {})
    with found.played:
        yield found


def test_ask_draw_edit(plain: Cluster) -> None:
    draw_ask_edit(plain)
    status = plain.triptych("status")
    assert status.returncode == OK
    assert status.stdout.count("serving") == 3, status.stdout


def test_pods_are_what_the_manifests_say(plain: Cluster, podman: Podman) -> None:
    """Not root, nothing to write to but /tmp, no capability, no way to get one."""
    script = "import os; print(os.getuid(), open('/proc/self/status').read())"
    for name in plain.names:
        found = plain.played.inspect(name)
        assert found["HostConfig"]["ReadonlyRootfs"] is True
        container = plain.played.container(name)
        uid, _, status = podman("exec", container, "python", "-c", script).partition(" ")
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert uid == "10001"
        assert int(facts["CapBnd"], 16) == int(facts["CapEff"], 16) == 0
        assert facts["NoNewPrivs"] == "1"
        refused = podman.run("exec", container, "python", "-c", "open('/opt/triptych/x', 'w')")
        assert "Read-only file system" in refused.stderr
        podman("exec", container, "python", "-c", "open('/tmp/x', 'w')")


def test_a_pod_ends_in_good_order(plain: Cluster, podman: Podman) -> None:
    """SIGTERM drains it: exit code 0, well before it would be killed. Last, for one is missing afterwards."""
    name = "triptych-encoder"
    started = time.monotonic()
    podman("stop", "--time", "60", plain.played.container(name))
    assert time.monotonic() - started < 30
    assert plain.played.inspect(name)["State"]["ExitCode"] == 0, plain.played.logs(name)
    told = plain.triptych("draw", "a large red circle in the center", "-o", "none.png", "--timeout-s", "20")
    assert told.returncode == UNAVAILABLE, told.stderr
    assert "encoder" in told.stderr
