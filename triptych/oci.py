"""Layers of an artifact or image in an OCI registry, read with nothing but the standard library.

Source: the OCI distribution specification 1.1, "Pulling manifests" and "Pulling blobs", and Docker's token
authentication, which registries share.
"""

import base64
import hashlib
import json
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlencode, urlsplit

from triptych.errors import CheckpointError, InvalidArgument, Unavailable

MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
)
REFERENCE: Final = re.compile(
    r"oci://(?P<host>[^/]+)/(?P<name>[a-z0-9._/-]+?)(?:@(?P<digest>sha256:\w+)|:(?P<tag>[\w.-]+))"
)
MANIFEST_BYTES: Final = 4 * 2**20  # what the specification asks registries to accept
TOKEN_BYTES: Final = 2**20
CHUNK_BYTES: Final = 2**20


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Blobs are often kept elsewhere: the registry's token is not for that host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            following.remove_header("Authorization")
        return following


def open_layers(url: str, auth: str, timeout_s: float, scratch: Path) -> Iterator[IO[bytes]]:
    """Each layer as an open file without a name on the disk of `scratch`, its digest already checked; closing it is the
    caller's. `auth` is "user:password", or empty. Raises InvalidArgument for what is no reference, Unavailable when the
    registry does not have it, CheckpointError for no manifest and for a blob that is not what its digest says. Loopback
    registries are spoken to without TLS."""
    parts = REFERENCE.fullmatch(url)
    if parts is None:
        raise InvalidArgument(f"url {url!r}: must be oci://HOST/NAME:TAG or oci://HOST/NAME@sha256:...")
    host = parts["host"]
    plain = host.partition(":")[0] in {"localhost", "127.0.0.1"}
    registry = Registry(f"{'http' if plain else 'https'}://{host}/v2/{parts['name']}", auth, timeout_s)
    manifest = registry.manifest(parts["digest"] or parts["tag"])
    if "manifests" in manifest:
        raise CheckpointError(f"{url} is an index of several images: name one of them by its digest")
    try:
        digests = [str(layer["digest"]) for layer in manifest["layers"]]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{url}: its manifest does not name layers by their digests") from error
    for digest in digests:
        yield registry.blob(digest, scratch)


class Registry:
    """One repository. `base` is its address up to its name."""

    def __init__(self, base: str, auth: str, timeout_s: float) -> None:
        self._base = base
        self._basic = f"Basic {base64.b64encode(auth.encode()).decode()}" if auth else ""
        self._timeout_s = timeout_s
        self._authorization = ""
        self._opener = urllib.request.build_opener(_Redirect)

    def manifest(self, reference: str) -> dict[str, Any]:
        with self._get(f"manifests/{reference}") as response:
            body = response.read(MANIFEST_BYTES)
        if reference.startswith("sha256:") and hashlib.sha256(body).hexdigest() != reference.removeprefix("sha256:"):
            raise CheckpointError(f"{self._base}: the manifest is not {reference}")
        return _object(body, f"{self._base}: the manifest {reference}")

    def blob(self, digest: str, scratch: Path) -> IO[bytes]:
        """On disk, for archives are larger than memory."""
        hashed = hashlib.sha256()
        file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (the caller closes it)
        with self._get(f"blobs/{digest}") as response:
            while chunk := response.read(CHUNK_BYTES):
                hashed.update(chunk)
                file.write(chunk)
        if f"sha256:{hashed.hexdigest()}" != digest:
            file.close()
            raise CheckpointError(f"{self._base}: blob {digest} came as sha256:{hashed.hexdigest()}")
        file.seek(0)
        return file

    def _get(self, path: str) -> HTTPResponse:
        """A token lives for minutes, and a layer may take longer: whenever one is refused, a fresh one is asked for,
        once."""
        url = f"{self._base}/{path}"
        try:
            try:
                return self._open(url, self._authorization)
            except urllib.error.HTTPError as error:
                if error.code != 401 or not self._is_own(error.url):
                    raise
                self._authorization = self.authorize(error.headers.get("WWW-Authenticate", ""))
            return self._open(url, self._authorization)
        except urllib.error.URLError as error:
            raise Unavailable(f"{url}: {error}") from error

    def _is_own(self, url: str) -> bool:
        """Whether the registry itself answered: a host that it redirected to must not say who gets the password."""
        return urlsplit(url).netloc == urlsplit(self._base).netloc

    def _open(self, url: str, authorization: str) -> HTTPResponse:
        headers = {"Accept": ", ".join(MANIFESTS)} | ({"Authorization": authorization} if authorization else {})
        response: HTTPResponse = self._opener.open(
            urllib.request.Request(url, headers=headers), timeout=self._timeout_s
        )
        return response

    def authorize(self, challenge: str) -> str:
        """What the registry wants to see: a token from where it says, or user and password themselves."""
        if not challenge.lower().startswith("bearer"):
            return self._basic
        said = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        if urlsplit(said.get("realm", "")).scheme != "https" and self._base.startswith("https"):
            raise Unavailable(f"{self._base}: the token would come from {said.get('realm')!r}, must be https")
        query = urlencode({key: said[key] for key in ("service", "scope") if key in said})
        try:
            with self._open(f"{said['realm']}?{query}", self._basic) as response:
                answer = _object(response.read(TOKEN_BYTES), f"{self._base}: the token from {said['realm']!r}")
        except (KeyError, urllib.error.URLError) as error:
            raise Unavailable(f"{self._base}: no token: {error!r}") from error
        return f"Bearer {answer.get('token') or answer.get('access_token')}"


def _object(body: bytes, what: str) -> dict[str, Any]:
    """Raises CheckpointError naming `what` when it is no JSON object."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{what} is no JSON object")
    return values
