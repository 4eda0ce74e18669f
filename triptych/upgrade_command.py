"""`triptych upgrade`: a new version of a component, beside the old one until it has proved itself; under
`triptych up`, or as a Helm release.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from triptych.client import DEFAULT_ADDRESS
from triptych.console import note
from triptych.errors import InvalidArgument

MAX_DIGITS: Final = 18
MAX_CALLS: Final = 2**31 - 1  # what the request holds
Components = Annotated[
    list[str], typer.Argument(metavar="COMPONENT...", help="encoder, llm, decoder; several together")
]
Address = Annotated[str, typer.Option(envvar="TRIPTYCH_ADDRESS", help="orchestrator of `triptych up`")]


def upgrade(
    components: Components,
    checkpoint: Annotated[
        str,
        typer.Option(help="folder of the new version, a component's or a system's; with --release: URL or subPath"),
    ] = "",
    backend: Annotated[str, typer.Option(help="encoder: torch, onnxruntime or triton; as it runs now if absent")] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="further settings of the new version")
    ] = None,
    share: Annotated[float, typer.Option(min=0, max=1, help="of the requests, at most, during the trial")] = 1.0,
    trial: Annotated[
        int, typer.Option(min=0, max=MAX_CALLS, help="calls to serve well before taking over; 0: none")
    ] = 20,
    trial_s: Annotated[float, typer.Option(min=0, help="the trial ends after that long, if fewer calls came")] = 10.0,
    address: Address = DEFAULT_ADDRESS,
    release: Annotated[str, typer.Option(help="a Helm release; without it, `triptych up` is upgraded")] = "",
    namespace: Annotated[str, typer.Option(help="where the release is")] = "default",
    chart: Annotated[str, typer.Option(help="the release's chart")] = "helm/triptych",
    image: Annotated[str, typer.Option(help="tag of the new image; with --release")] = "",
    digest: Annotated[str, typer.Option(help="digest of the new card; with --release and --checkpoint")] = "",
    timeout: Annotated[str, typer.Option(help="until all new pods are ready, as 90m; with --release")] = "15m",
) -> None:
    """Upgrade components one at a time, or together those that belong together. Ends with 0 when only the new version
    serves, with 1 and the reason when only the old one does."""
    wanted = pairs(settings or (), "--set") | ({"backend": backend} if backend else {})
    if release:
        from triptych.helm_upgrade import HelmUpgrade

        upgraded = HelmUpgrade(release, namespace, chart)
        change = {"checkpoint": checkpoint, "digest": digest, "image": image, "timeout": timeout}
        upgraded.run(components, settings=wanted, share=share, **change)
        return
    if image or digest:
        raise InvalidArgument("--image and --digest are for a Helm release: give --release too")
    from triptych.local.control import ask
    from triptych.v1 import supervisor_pb2

    request = supervisor_pb2.UpgradeRequest(
        components=components,
        checkpoint=str(Path(checkpoint).absolute()) if checkpoint else "",
        settings=wanted,
        share=share,
        trial_calls=trial,
        trial_s=trial_s,
    )
    for line in ask(address, request):
        note(line)


def pairs(entries: Sequence[str], flag: str) -> dict[str, str]:
    """NAME=VALUEs. Raises InvalidArgument naming the flag and the entry that is none."""
    found: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not name or not equals:
            raise InvalidArgument(f"{flag} {entry!r} must be NAME=VALUE")
        found[name] = value
    return found


def number(text: str, flag: str) -> int:
    """Raises InvalidArgument naming the flag and the text that is no number, or one that no one means."""
    if not text.isdecimal() or len(text) > MAX_DIGITS:
        raise InvalidArgument(f"{flag} has {text[:MAX_DIGITS]!r}, must be a number of at most {MAX_DIGITS} digits")
    return int(text)
