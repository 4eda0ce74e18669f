"""One component of a Helm release, upgraded by the `helm` command: all other values stay."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence

from triptych.console import note
from triptych.errors import InvalidArgument, TriptychError

TIMEOUT = "15m"


class HelmUpgrade:
    """Of `release` in `namespace`."""

    def __init__(self, release: str, namespace: str, chart: str) -> None:
        self._release = release
        self._namespace = namespace
        self._chart = chart

    def run(
        self,
        components: Sequence[str],
        *,
        checkpoint: str,
        digest: str,
        image: str,
        settings: Mapping[str, str],
        share: float,
    ) -> None:
        """Waits until the new pods are ready; Helm takes everything back when they are not in time. Raises
        InvalidArgument without `helm` or without a change, TriptychError when the upgrade failed."""
        changes = [
            change for name in components for change in changes_of(name, checkpoint, digest, image, settings, share)
        ]
        if not changes:
            raise InvalidArgument("nothing to upgrade to: give --image, --checkpoint or --set")
        if shutil.which("helm") is None:
            raise InvalidArgument("helm is not installed: it is what changes a release (https://helm.sh)")
        command = ["helm", "upgrade", self._release, self._chart, "--namespace", self._namespace, "--reuse-values"]
        for change in changes:  # numbers stay numbers, as the chart's schema wants them; a tag is never one
            command += ["--set" if ".config." in change else "--set-string", change]
        command += ["--atomic", "--wait", "--timeout", TIMEOUT]
        note(" ".join(command))
        if subprocess.run(command, check=False).returncode != 0:
            raise TriptychError(f"helm took the upgrade of {', '.join(components)} back: the old version serves")


def changes_of(
    component: str, checkpoint: str, digest: str, image: str, settings: Mapping[str, str], share: float
) -> list[str]:
    """The chart's values that change, KEY=VALUE, and no others."""
    found: dict[str, str] = {}
    if image:
        found["image.tag"] = image
    if checkpoint:
        found["checkpoint.fetch.url" if "://" in checkpoint else "checkpoint.pvc.subPath"] = checkpoint
    if digest:
        found["checkpoint.digest"] = digest
    found |= {f"config.{name}": value for name, value in settings.items()}
    if found and share < 1:
        found["config.share"] = f"{share:g}"
    return [f"{component}.{key}={value.replace(',', chr(92) + ',')}" for key, value in found.items()]
