"""What the chart renders of the CPU example, as pods of this machine, and its user."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Final

from tests.helm.charts import ROOT, Object, of_kind, pod, render, values_of, workloads
from tests.helm.podman import Played, Podman
from tests.integration.processes import TRIPTYCH, run
from triptych.certificates import Authority

CHECKPOINT: Final = ROOT / "checkpoints" / "genllava-tiny"
STEPS: Final = "12"  # enough for a circle, and for a busy machine
OK, BAD_INPUT, UNAVAILABLE = 0, 2, 3


@dataclass
class Cluster:
    """What was played, and how its user gets in."""

    played: Played
    objects: dict[tuple[str, str], Object]
    secrets: Path
    folder: Path

    def triptych(self, *args: str, **environment: str) -> "CompletedProcess[str]":
        return run(*TRIPTYCH, *args, cwd=self.folder, TRIPTYCH_ADDRESS=f"localhost:{self._port}", **environment)

    @property
    def _port(self) -> int:
        return int(self.objects["Service", "triptych-orchestrator"]["spec"]["ports"][0]["port"])

    @property
    def names(self) -> list[str]:
        return [found["metadata"]["name"] for found in workloads(self.objects)]

    def issue(self) -> dict[str, str]:
        """As cert-manager would, by another authority at each call; the variables of a user whom it lets in, too."""
        authority = Authority()
        for found in of_kind(self.objects, "Certificate"):
            if not found["spec"].get("isCA"):
                folder = authority.issue(self.secrets / found["spec"]["secretName"], found["spec"]["dnsNames"])
                for file in folder.iterdir():
                    file.chmod(0o644)  # a kubelet would give them to the pod's group
        return {"TRIPTYCH_TLS_DIR": str(authority.issue(self.folder / "user", ["user"]))}

    def new_key(self) -> dict[str, str]:
        folder = self.secrets / "triptych-keys"
        folder.mkdir(exist_ok=True)
        made = self.triptych("keys", "add", "alice", "--file", str(folder / "keys.json"))
        (folder / "keys.json").chmod(0o644)
        return {"TRIPTYCH_API_KEY": made.stdout.strip()}


def cluster(podman: Podman, folder: Path, more: dict[str, Any]) -> Cluster:
    """Not yet played. Components' folders come from claims: podman 4 mounts no images."""
    values = values_of("cpu-laptop")
    values["defaults"]["checkpoint"] = {"source": "pvc"}
    objects = render(values | more)
    for found in workloads(objects):
        podman.require_image(pod(found)["containers"][0]["image"])
    (folder / "secrets").mkdir()
    played = Played(podman, objects, folder, CHECKPOINT, folder / "secrets")
    return Cluster(played, objects, folder / "secrets", folder)


def draw_ask_edit(cluster: Cluster, **user: str) -> None:
    draw_ask_edit_with(lambda *args: cluster.triptych(*args, **user), cluster.folder)


def draw_ask_edit_with(triptych: Callable[..., "CompletedProcess[str]"], folder: Path) -> None:
    """The shipped checkpoint draws this circle right: what it says of its own pictures is what was asked for."""
    flags = ("--seed", "2", "--steps", STEPS)
    drawn = triptych("draw", "a large red circle in the center", "-o", "circle.png", *flags)
    assert drawn.returncode == OK, drawn.stderr
    assert (folder / "circle.png").read_bytes()[:4] == b"\x89PNG"
    assert "red" in answer(triptych("ask", "circle.png", "What color is it?", "--temperature", "0"))
    edited = triptych("edit", "circle.png", "make it blue", "-o", "blue.png", *flags)
    assert edited.returncode == OK, edited.stderr
    assert "blue" in answer(triptych("ask", "blue.png", "What color is it?", "--temperature", "0"))


def answer(asked: "CompletedProcess[str]") -> str:
    assert asked.returncode == OK, asked.stderr
    return asked.stdout.lower()
