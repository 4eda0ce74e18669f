"""`python -m triptych.fetch FOLDER --digest sha256:... [--url URL]`: puts one component into a folder and makes sure
that it is the one that was meant. Without --url, only the latter.

| URL | what it is |
| - | - |
| https://HOST/PATH.tar.gz | an archive of the component's folder, gzip or not; its files at the top, or in one folder |
| hf://OWNER/NAME@REVISION/PATH | a folder of a Hugging Face repository (HF_TOKEN for private ones) |
| oci://HOST/NAME:TAG | an OCI artifact or image whose layers are tar archives (REGISTRY_AUTH: "user:password") |

For init containers. A folder that holds the component already is left as it is. Exit codes: 0, 1 when the source does
not answer or what came is something else, 2 for wrong arguments.
"""

import argparse
import os
import re
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, InvalidURL
from json import JSONDecodeError
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

from triptych.card import CARD_FILE, Card, read_card, verify_digest
from triptych.errors import CheckpointError, InvalidArgument, TriptychError, Unavailable
from triptych.oci import open_layers

TIMEOUT_S: Final = 60.0  # without a byte
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
HUGGING_FACE: Final = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)@(?P<revision>[^/]+)/?(?P<path>.*)")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m triptych.fetch", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="the component's folder; made if it is not there")
    parser.add_argument("--digest", required=True, help="of the component, as its card.json has it")
    parser.add_argument("--url", help="where to take it from")
    args = parser.parse_args(argv)
    try:
        fetch(args.folder, args.digest, args.url)
    except TriptychError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidArgument) else 1
    except InvalidURL as error:
        print(f"error: url {args.url!r}: {error}", file=sys.stderr)
        return 2
    except (OSError, HTTPException, tarfile.TarError) as error:  # a full disk, a cut line, a broken archive
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def fetch(folder: Path, digest: str, url: str | None = None) -> None:
    """Raises InvalidArgument for what is no digest or URL, Unavailable when the source does not have it, and
    CheckpointError when the folder is not the component with this digest."""
    if not DIGEST.fullmatch(digest):
        raise InvalidArgument(f"digest {digest!r}: must be sha256: and 64 hexadecimal digits")
    if url is not None and not (folder / CARD_FILE).exists():
        _bring(url, folder, digest)
    card = _check(folder, digest)
    print(f"{folder} holds {card.label}, {digest}", file=sys.stderr)


def _check(folder: Path, digest: str) -> Card:
    card = read_card(folder)
    if card.digest != digest:
        raise CheckpointError(f"{folder} holds {card.label} with digest {card.digest}, wanted is {digest}")
    verify_digest(folder, card)
    return card


def _bring(url: str, folder: Path, digest: str) -> None:
    """Into a folder beside the files first, moved into place as a whole: card.json comes last. What is not the
    component never gets there: the next attempt would take its card for a sign that all is done."""
    scheme = _scheme(url)
    known: dict[str, Callable[[str, Path], None]] = {
        **dict.fromkeys(("http", "https"), _archive),
        "hf": _hugging_face,
        "oci": _artifact,
    }
    if scheme not in known:
        raise InvalidArgument(f"url {url!r}: must begin with one of {', '.join(f'{name}://' for name in known)}")
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".fetch-*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as partial:
        known[scheme](url, Path(partial))
        source = _component(Path(partial), url)
        _check(source, digest)
        for path in sorted(source.iterdir(), key=lambda path: path.name == CARD_FILE):
            _replace(path, folder / path.name)


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError as error:
        raise InvalidArgument(f"url {url!r}: {error}") from error


def _replace(path: Path, target: Path) -> None:
    if target.is_dir():  # left by an attempt that was cut off
        shutil.rmtree(target)
    path.replace(target)


def _component(partial: Path, url: str) -> Path:
    """The one folder with a card."""
    found = [path.parent for path in (partial / CARD_FILE, *partial.glob(f"*/{CARD_FILE}")) if path.is_file()]
    if len(found) != 1:
        raise CheckpointError(f"{url} holds {len(found)} folders with a {CARD_FILE}, must be one")
    return found[0]


def _archive(url: str, folder: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            _unpack(response, folder)
    except urllib.error.URLError as error:
        raise Unavailable(f"{url}: {error}") from error


def _unpack(file: IO[bytes], folder: Path) -> None:
    with tarfile.open(fileobj=file, mode="r|*") as archive:
        archive.extractall(folder, filter="data")  # refuses what would land outside


def _artifact(url: str, folder: Path) -> None:
    for layer in open_layers(url, os.environ.get("REGISTRY_AUTH", ""), TIMEOUT_S, folder):
        with layer as file:
            _unpack(file, folder)


def _hugging_face(url: str, folder: Path) -> None:
    parts = HUGGING_FACE.fullmatch(url)
    if parts is None:
        raise InvalidArgument(f"url {url!r}: must be hf://OWNER/NAME@REVISION/PATH")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    path = parts["path"].strip("/")
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".cache-") as cache:
            found = Path(
                snapshot_download(
                    parts["repo"],
                    revision=parts["revision"],
                    allow_patterns=f"{path}/**" if path else None,
                    local_dir=cache,
                )
            )
            if not (found / path / CARD_FILE).is_file():
                raise Unavailable(f"{url}: there is no {CARD_FILE}")
            shutil.move(found / path, folder / "component")
            shutil.rmtree(folder / "component" / ".cache", ignore_errors=True)
    except HFValidationError as error:
        raise InvalidArgument(f"url {url!r}: {error}") from error
    except (HfHubHTTPError, JSONDecodeError) as error:
        raise Unavailable(f"{url}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
