"""Rendered manifests played by podman, on the network of this machine. What podman 4 leaves to a cluster is done here:
names of Services (a hosts file), Secrets and claims (folders and volumes), probes.
"""

import copy
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import pytest
import yaml

from tests.helm.charts import Object, of_kind, pod
from triptych.access import Access
from triptych.errors import Unavailable
from triptych.health import check_health

HERE: Final = "127.0.0.1"
# No more than any machine allows: no journal, no raised limits.
CONF: Final = """
[engine]
events_logger = "file"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
log_driver = "k8s-file"
"""
# Networks on which containers find each other by name.
NAMES: Final = """
[network]
network_backend = "netavark"
"""
PLUGINS: Final = Path("/usr/lib/podman")
START_S: Final = 900  # torch on a busy machine


class Podman:
    """The podman of this machine, with settings of its own."""

    def __init__(self, folder: Path) -> None:
        """Skips the test that asks where there is no podman."""
        if shutil.which("podman") is None:
            pytest.skip("there is no podman on this machine")
        conf = folder / "containers.conf"
        self.has_names = all((PLUGINS / name).exists() for name in ("netavark", "aardvark-dns"))
        conf.write_text(CONF + (NAMES if self.has_names else ""), encoding="utf-8")
        self.environment = {**os.environ, "CONTAINERS_CONF": str(conf)}

    def run(self, *args: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["podman", *args], env=self.environment, capture_output=True, text=True, timeout=timeout_s
        )

    def __call__(self, *args: str, timeout_s: float = 120) -> str:
        """stdout. Fails the test when podman does."""
        done = self.run(*args, timeout_s=timeout_s)
        assert done.returncode == 0, f"podman {' '.join(args)}: {done.stderr}"
        return done.stdout

    def require_image(self, name: str) -> None:
        if self.run("image", "exists", name).returncode:
            pytest.skip(f"image {name} is not there: make images")


class Played:
    """The Deployments among rendered objects as pods. A context manager."""

    def __init__(
        self, podman: Podman, objects: dict[tuple[str, str], Object], folder: Path, checkpoint: Path, secrets: Path
    ) -> None:
        """`folder` is ours to write to; `secrets` has a folder for each Secret. Plays nothing yet."""
        self._podman = podman
        self._file = folder / "manifests.yaml"
        self._checkpoint = checkpoint
        self._deployments = of_kind(objects, "Deployment")
        hosts = folder / "hosts"
        names = [found["metadata"]["name"] for found in of_kind(objects, "Service")]
        hosts.write_text(f"{HERE} localhost {' '.join(names)}\n", encoding="utf-8")
        playable = [_playable(found, hosts, secrets) for found in self._deployments]
        self._file.write_text(yaml.safe_dump_all(playable), encoding="utf-8")

    def container(self, component: str) -> str:
        """The name that podman gave the only container of a Deployment's only pod."""
        (found,) = (found for found in self._deployments if found["metadata"]["name"] == component)
        return f"{component}-pod-0-{pod(found)['containers'][0]['name']}"

    def inspect(self, component: str) -> dict[str, Any]:
        (found,) = yaml.safe_load(self._podman("inspect", self.container(component)))
        return dict(found)

    def logs(self, component: str) -> str:
        done = self._podman.run("logs", self.container(component))
        return done.stdout + done.stderr

    def probe(self, deployment: Object, name: str) -> None:
        """As a kubelet would. Raises Unavailable."""
        asked = pod(deployment)["containers"][0][name]["grpc"]
        check_health(f"{HERE}:{asked['port']}", Access(), asked.get("service", ""), timeout_s=5)

    def __enter__(self) -> Self:
        try:
            for deployment in self._deployments:
                for volume in pod(deployment)["volumes"]:
                    if "persistentVolumeClaim" in volume:
                        self._fill(volume["persistentVolumeClaim"]["claimName"], deployment)
            self._podman("kube", "play", "--network", "host", str(self._file), timeout_s=300)
            self._await_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._podman.run("kube", "down", str(self._file), timeout_s=300)
        for deployment in self._deployments:
            for volume in pod(deployment)["volumes"]:
                claim = volume.get("persistentVolumeClaim", {}).get("claimName")
                self._podman.run(
                    "volume", "rm", "--force", claim or f"{deployment['metadata']['name']}-{volume['name']}"
                )

    def _fill(self, claim: str, deployment: Object) -> None:
        self._podman("volume", "create", claim)
        place = self._podman("volume", "inspect", "--format", "{{.Mountpoint}}", claim).strip()
        component = pod(deployment)["containers"][0]["name"]
        shutil.copytree(self._checkpoint / component, place, dirs_exist_ok=True)

    def _await_ready(self) -> None:
        """All start before any is ready: components learn from the orchestrator that they fit each other."""
        deadline = time.monotonic() + START_S
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            for deployment in self._deployments:
                component = deployment["metadata"]["name"]
                while why := self._why_not(deployment, name):
                    assert self.inspect(component)["State"]["Running"], f"{component}: {self.logs(component)}"
                    assert time.monotonic() < deadline, f"{component}, {name}: {why}\n{self.logs(component)}"
                    time.sleep(0.5)

    def _why_not(self, deployment: Object, name: str) -> str:
        try:
            self.probe(deployment, name)
        except Unavailable as error:
            return str(error)
        return ""


def _playable(deployment: Object, hosts: Path, secrets: Path) -> Object:
    """Names and secrets from files of this machine; all else as it was rendered."""
    changed = copy.deepcopy(deployment)
    spec = changed["spec"]["template"]["spec"]
    spec["volumes"] = [_volume(volume, secrets) for volume in spec["volumes"]]
    own = {volume["name"]: f"{changed['metadata']['name']}-{volume['name']}" for volume in spec["volumes"]}
    for volume in spec["volumes"]:  # podman's emptyDir of one name is one volume, for all pods
        volume["name"] = own[volume["name"]]
    spec["volumes"].append({"name": "hosts", "hostPath": {"path": str(hosts), "type": "File"}})
    for container in spec["containers"]:
        for mount in container["volumeMounts"]:
            mount["name"] = own[mount["name"]]
        container["volumeMounts"].append({"name": "hosts", "mountPath": "/etc/hosts", "readOnly": True})
        del container["ports"]  # podman would map them, which this machine's network has no need of
    return dict(changed)


def _volume(volume: Mapping[str, Any], secrets: Path) -> dict[str, Any]:
    if "secret" not in volume:
        return dict(volume)
    folder = secrets / volume["secret"]["secretName"]
    return {"name": volume["name"], "hostPath": {"path": str(folder), "type": "Directory"}}
