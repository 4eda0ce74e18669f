"""One component of a Helm release, upgraded by the `helm` command: all other values stay."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence

from triptych.console import note
from triptych.errors import InvalidArgument, TriptychError


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
        timeout: str,
    ) -> None:
        """Waits until the new pods are ready; Helm takes everything back when they are not within `timeout`. Raises
        InvalidArgument without `helm` or without a change, TriptychError when the upgrade failed."""
        if (checkpoint or digest) and len(components) > 1:
            together = ", ".join(components)
            raise InvalidArgument(f"--checkpoint, --digest: one component's in a release, not those of {together}")
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
        command += ["--atomic", "--wait", "--timeout", timeout]
        note(" ".join(command))
        if subprocess.run(command, check=False).returncode != 0:
            raise TriptychError(f"helm took the upgrade of {', '.join(components)} back: the old version serves")


def changes_of(
    component: str, checkpoint: str, digest: str, image: str, settings: Mapping[str, str], share: float
) -> list[str]:
    """The chart's values that change, KEY=VALUE, and those that would keep the change from taking effect: an image's
    digest counts before its tag, one source of the folder before another, and a share stays until it is said anew."""
    found: dict[str, str] = {}
    if image:
        found |= {"image.tag": image, "image.digest": ""}
    if checkpoint:
        source, key = ("fetch", "fetch.url") if "://" in checkpoint else ("pvc", "pvc.subPath")
        found |= {"checkpoint.source": source, f"checkpoint.{key}": checkpoint}
    if digest:
        found["checkpoint.digest"] = digest
    found |= {f"config.{name}": value for name, value in settings.items()}
    if found and component != "orchestrator":
        found.setdefault("config.share", f"{share:g}")
    return [f"{component}.{key}={value.replace(',', chr(92) + ',')}" for key, value in found.items()]
