"""The orchestrator as a process, with its door closed, and the `triptych` command in front of it."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.integration.processes import Process
from triptych.access import Access
from triptych.certificates import Authority
from triptych.cli import app
from triptych.client import AsyncClient, Client
from triptych.errors import Unauthenticated, Unavailable

NAMES = ["localhost", "127.0.0.1"]
OK, BAD_INPUT, UNAVAILABLE = 0, 2, 3


def run(*words: str | Path, **environment: str) -> Any:
    """`triptych WORDS`."""
    return CliRunner(env=environment).invoke(app, [str(word) for word in words])


def test_command_line_and_clients_with_tls(tmp_path: Path) -> None:
    authority = Authority()
    server = authority.issue(tmp_path / "server", NAMES)
    user = authority.issue(tmp_path / "user", ["someone"])
    stranger = Authority().issue(tmp_path / "stranger", ["someone"])
    with Process("orchestrator", tmp_path / "logs", "--tls-dir", str(server)) as process:
        address = process.address
        access = Access(tls_dir=user)
        with Client(address, timeout_s=10, access=access) as client:
            assert list(client.components().replicas) == []
            authority = Authority()  # everything changes, nobody restarts
            authority.issue(server, NAMES)
            authority.issue(user, ["someone"])
            assert list(client.components().replicas) == []
        assert asyncio.run(_num_replicas(address, access)) == 0
        with Client(address, timeout_s=10, access=Access(tls_dir=stranger)) as client:
            with pytest.raises(Unavailable):
                client.components()
        flags = ("--tls-ca", user / "ca.crt", "--tls-cert", user / "tls.crt", "--tls-key", user / "tls.key")
        done = run(*flags, "status", "--address", address)
        assert done.exit_code == OK, done.stderr
        done = run("health", "--address", address, TRIPTYCH_TLS_DIR=str(user))
        assert (done.exit_code, done.stdout) == (OK, "serving\n")
        done = run("health", "--address", address)
        assert done.exit_code == UNAVAILABLE
        done = run("--tls-cert", user / "tls.crt", "health", "--address", address)
        assert done.exit_code == BAD_INPUT
        assert "both or neither" in done.stderr


async def _num_replicas(address: str, access: Access) -> int:
    async with AsyncClient(address, timeout_s=10, access=access) as client:
        return len((await client.components()).replicas)


def test_health_of_an_unknown_service_is_no_health(tmp_path: Path) -> None:
    with Process("orchestrator", tmp_path) as process:
        address = process.address
        assert run("health", "--address", address).exit_code == OK
        named = run("health", "--address", address, "--service", "triptych.v1.OrchestratorService")
        assert named.exit_code == OK
        assert run("health", "--address", address, "--service", "nobody").exit_code == UNAVAILABLE


def test_no_open_door_by_accident(tmp_path: Path) -> None:
    with Process("orchestrator", tmp_path, "--host", "0.0.0.0") as process:
        assert process.wait() == BAD_INPUT
        assert "without TLS" in process.log


def test_keys_from_making_to_revoking(tmp_path: Path) -> None:
    """Users without certificates, with keys; the process's own log names them and holds no key."""
    server = Authority().issue(tmp_path / "server", NAMES)
    file, key_file = tmp_path / "keys.json", tmp_path / "key"
    key = run("keys", "add", "alice", "--file", file).stdout.strip()
    key_file.write_text(key)
    flags = ("--tls-dir", str(server), "--no-tls-require-client-cert", "--keys-file", str(file), "--log-level", "debug")
    with Process("orchestrator", tmp_path / "logs", *flags) as process:
        words = ("--tls-ca", server / "ca.crt", "--api-key-file", key_file, "status", "--address", process.address)
        assert run(*words).exit_code == OK
        assert run("health", "--address", process.address, TRIPTYCH_TLS_CA=str(server / "ca.crt")).exit_code == OK
        assert run(*words[:2], *words[4:]).exit_code == BAD_INPUT
        assert run("keys", "revoke", "alice", "--file", file).exit_code == OK
        time.sleep(0.6)
        done = run(*words)
        assert done.exit_code == BAD_INPUT
        assert "the API key is not known" in done.stderr
        with pytest.raises(Unauthenticated):
            Client(process.address, access=Access(tls_ca=server / "ca.crt", api_key=key)).components()
        assert '"caller": "alice"' in process.log
        assert key.rpartition("_")[2] not in process.log
