"""The CPU example with TLS and API keys, as podman plays it: who gets in, and new certificates without a restart."""

import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.helm.cluster import BAD_INPUT, OK, UNAVAILABLE, Cluster, cluster, draw_ask_edit
from tests.helm.podman import HERE, Podman

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

GUARDED: Final[dict[str, Any]] = {"tls": {"enabled": True}, "keys": {"secretName": "triptych-keys"}}
RENEWED_S: Final = 120.0  # until new certificates are in use everywhere: a poll or two, on a busy machine


@pytest.fixture(scope="module")
def guarded(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, dict[str, str]]]:
    """With certificates for the names that the chart asks for, and a key."""
    found = cluster(podman, tmp_path_factory.mktemp("guarded"), GUARDED)
    user = found.issue() | found.new_key()
    with found.played:
        yield found, user


def test_with_tls_and_a_key(guarded: tuple[Cluster, dict[str, str]]) -> None:
    """Probes passed without a certificate; callers need one, and a key."""
    found, user = guarded
    draw_ask_edit(found, **user)
    without_key = found.triptych("status", TRIPTYCH_TLS_DIR=user["TRIPTYCH_TLS_DIR"])
    assert without_key.returncode == BAD_INPUT, without_key.stderr
    assert found.triptych("status").returncode == UNAVAILABLE
    component = found.triptych("health", "--address", f"{HERE}:50051")
    assert component.returncode == UNAVAILABLE


def test_new_certificates_are_taken_up(guarded: tuple[Cluster, dict[str, str]]) -> None:
    """Of another authority, in the mounted folders; nobody is restarted."""
    found, user = guarded
    before = [found.played.inspect(name)["State"]["StartedAt"] for name in found.names]
    renewed = user | found.issue()
    deadline = time.monotonic() + RENEWED_S
    while (status := found.triptych("status", **renewed)).stdout.count("\tserving") < 3:
        assert time.monotonic() < deadline, status.stdout + status.stderr
        time.sleep(1)
    drawn = found.triptych("draw", "a red circle", "-o", "again.png", "--steps", "2", **renewed)
    assert drawn.returncode == OK, drawn.stderr
    assert [found.played.inspect(name)["State"]["StartedAt"] for name in found.names] == before
