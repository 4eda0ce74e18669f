"""Components fetched from a real web server and from a registry that speaks the distribution protocol."""

import base64
import hashlib
import io
import json
import shutil
import socket
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from triptych.card import Card, folder_digest, write_card
from triptych.errors import CheckpointError, InvalidArgument, Unavailable
from triptych.fetch import fetch, main
from triptych.oci import Registry

BASIC = f"Basic {base64.b64encode(b'me:secret').decode()}"


class Site:
    """Paths to bytes, on a free port. `locked` ones ask for a token first, as registries do; each token is good for
    `token_uses`. `moved` ones are elsewhere."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.locked = False
        self.token_uses = 100
        self.token_page = b""  # instead of a token
        self.num_tokens = 0
        self.uses_left = 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen, path = self.headers.get("Authorization"), self.path.partition("?")[0]
                if path == "/token":
                    page = site.token_page or json.dumps({"token": site.new_token()}).encode()
                    self.answer(200 if seen == BASIC else 403, page)
                elif path in site.moved:
                    self.answer(307, b"", {"Location": site.moved[path]})
                elif site.locked and not site.admits(seen):
                    challenge = f'Bearer realm="{site.url}/token",service="here",scope="repository:a/b:pull"'
                    self.answer(401, b"", {"WWW-Authenticate": challenge})
                elif path in site.pages:
                    self.answer(200, site.pages[path])
                else:
                    self.answer(404, b"")

            def answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(code)
                for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.address}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def new_token(self) -> str:
        self.num_tokens += 1
        self.uses_left = self.token_uses
        return f"t0ken-{self.num_tokens}"

    def admits(self, authorization: str | None) -> bool:
        """Only the latest token, and not too often."""
        self.uses_left -= 1
        return authorization == f"Bearer t0ken-{self.num_tokens}" and self.uses_left >= 0

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def push(self, name: str, *blobs: bytes) -> None:
        """An artifact of these layers, tagged 1."""
        digests = [f"sha256:{hashlib.sha256(blob).hexdigest()}" for blob in blobs]
        manifest = json.dumps({"schemaVersion": 2, "layers": [{"digest": digest} for digest in digests]}).encode()
        self.pages[f"/v2/{name}/manifests/1"] = manifest
        self.pages |= {f"/v2/{name}/blobs/{d}": blob for d, blob in zip(digests, blobs, strict=True)}


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture
def component(tmp_path: Path) -> Path:
    folder = tmp_path / "encoder"
    (folder / "vision").mkdir(parents=True)
    (folder / "vision" / "model.safetensors").write_bytes(bytes(range(256)) * 64)
    write_card(folder, Card(kind="encoder", name="tiny", version="1.0.0"))
    return folder


def packed(folder: Path, top: str = "", mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for path in sorted(folder.rglob("*")):
            archive.add(path, f"{top}{path.relative_to(folder)}", recursive=False)
    return buffer.getvalue()


@pytest.mark.parametrize(("top", "mode"), [("", "w:gz"), ("encoder/", "w")])
def test_archive(site: Site, component: Path, tmp_path: Path, top: str, mode: str) -> None:
    site.pages["/encoder.tar"] = packed(component, top, mode)
    digest, out = folder_digest(component), tmp_path / "out"
    assert main([str(out), "--digest", digest, "--url", f"{site.url}/encoder.tar"]) == 0
    assert folder_digest(out) == digest
    assert not list(out.glob(".*"))
    site.pages.clear()
    fetch(out, digest, f"{site.url}/encoder.tar")  # it is there already


def push_in_two_layers(site: Site, component: Path, card: Path) -> str:
    """Its digest. The card is moved to a folder of its own."""
    digest = folder_digest(component)
    card.mkdir()
    shutil.move(component / "card.json", card)
    site.push("a/b", packed(component), packed(card))
    return digest


@pytest.mark.parametrize("is_locked", [False, True])
def test_registry(
    site: Site, component: Path, tmp_path: Path, is_locked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two layers, and with a token where the registry wants one."""
    digest = push_in_two_layers(site, component, tmp_path / "card")
    site.locked = is_locked
    monkeypatch.setenv("REGISTRY_AUTH", "me:secret")
    fetch(tmp_path / "out", digest, f"oci://{site.address}/a/b:1")
    assert folder_digest(tmp_path / "out") == digest


def test_a_token_that_expires_between_layers(
    site: Site, component: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = push_in_two_layers(site, component, tmp_path / "card")
    site.locked, site.token_uses = True, 1
    monkeypatch.setenv("REGISTRY_AUTH", "me:secret")
    fetch(tmp_path / "out", digest, f"oci://{site.address}/a/b:1")
    assert site.num_tokens == 3, "for the manifest and each layer"


def test_a_fresh_token_that_is_refused_is_the_end(
    site: Site, component: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.push("a/b", packed(component))
    site.locked, site.token_uses = True, 0
    monkeypatch.setenv("REGISTRY_AUTH", "me:secret")
    with pytest.raises(Unavailable, match="401"):
        fetch(tmp_path / "out", folder_digest(component), f"oci://{site.address}/a/b:1")
    assert site.num_tokens == 1


def test_a_host_that_blobs_are_kept_at_gets_no_password(
    site: Site, component: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.push("a/b", packed(component))
    elsewhere = Site()
    elsewhere.locked = True
    site.moved = {path: f"{elsewhere.url}/blob" for path in site.pages if "/blobs/" in path}
    monkeypatch.setenv("REGISTRY_AUTH", "me:secret")
    with pytest.raises(Unavailable, match="401"):
        fetch(tmp_path / "out", folder_digest(component), f"oci://{site.address}/a/b:1")
    assert elsewhere.num_tokens == 0
    elsewhere.close()


def test_a_blob_that_was_changed(site: Site, component: Path, tmp_path: Path) -> None:
    site.push("a/b", packed(component))
    (path,) = (path for path in site.pages if "/blobs/" in path)
    site.pages[path] += b"x"
    with pytest.raises(CheckpointError, match="came as sha256:"):
        fetch(tmp_path / "out", folder_digest(component), f"oci://{site.address}/a/b:1")


def test_another_component_than_was_meant(site: Site, component: Path, tmp_path: Path) -> None:
    site.pages["/encoder.tar.gz"] = packed(component)
    with pytest.raises(CheckpointError, match="wanted is sha256:0000"):
        fetch(tmp_path / "out", f"sha256:{'0' * 64}", f"{site.url}/encoder.tar.gz")


def test_what_came_wrong_is_brought_anew(site: Site, component: Path, tmp_path: Path) -> None:
    """A component whose files are not its card's, and one that nobody meant."""
    digest, out, whole = folder_digest(component), tmp_path / "out", packed(component)
    (component / "vision" / "model.safetensors").write_bytes(b"cut short")
    for message in ("half-copied or changed", f"wanted is {digest}"):
        site.pages["/encoder.tar.gz"] = packed(component)
        with pytest.raises(CheckpointError, match=message):
            fetch(out, digest, f"{site.url}/encoder.tar.gz")
        assert not list(out.iterdir())
        write_card(component, Card(kind="encoder", name="other", version="1.0.0"))
    site.pages["/encoder.tar.gz"] = whole
    fetch(out, digest, f"{site.url}/encoder.tar.gz")
    assert folder_digest(out) == digest


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (b"<html>", "the manifest 1 is not JSON"),
        (b"[]", "the manifest 1 is no JSON object"),
        (b"{}", "does not name layers by their digests"),
        (b'{"layers": null}', "does not name layers by their digests"),
        (b'{"layers": [{"size": 1}]}', "does not name layers by their digests"),
        (b'{"manifests": []}', "is an index of several images"),
    ],
)
def test_a_manifest_that_is_none(site: Site, tmp_path: Path, manifest: bytes, message: str) -> None:
    site.pages["/v2/a/b/manifests/1"] = manifest
    with pytest.raises(CheckpointError, match=message):
        fetch(tmp_path / "out", f"sha256:{'0' * 64}", f"oci://{site.address}/a/b:1")


@pytest.mark.parametrize("token", [b"welcome", b"[]"])
def test_a_token_that_is_none(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: bytes) -> None:
    site.locked, site.token_page = True, token
    monkeypatch.setenv("REGISTRY_AUTH", "me:secret")
    with pytest.raises(CheckpointError, match="the token from .* is no"):
        fetch(tmp_path / "out", f"sha256:{'0' * 64}", f"oci://{site.address}/a/b:1")


def test_a_repository_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"url 'hf://a\.\.b/c@main': .*repo"):
        fetch(tmp_path / "out", f"sha256:{'0' * 64}", "hf://a..b/c@main")


def test_files_that_are_not_the_cards(component: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = folder_digest(component)
    assert main([str(component), "--digest", digest]) == 0
    (component / "vision" / "model.safetensors").write_bytes(b"other")
    assert main([str(component), "--digest", digest]) == 1
    assert "half-copied or changed" in capsys.readouterr().err


def test_an_archive_that_reaches_outside(site: Site, component: Path, tmp_path: Path) -> None:
    site.pages["/encoder.tar"] = packed(component, "../outside/", "w")
    assert main([str(tmp_path / "out"), "--digest", folder_digest(component), "--url", f"{site.url}/encoder.tar"]) == 1
    assert not list(tmp_path.rglob("outside"))


def test_sources_that_do_not_answer(site: Site, tmp_path: Path) -> None:
    digest = f"sha256:{'0' * 64}"
    for url in (f"{site.url}/none.tar", f"oci://{site.address}/a/none:1"):
        with pytest.raises(Unavailable, match="none"):
            fetch(tmp_path / "out", digest, url)
    for url in ("ftp://a/b", "hf://name/only", "oci://host"):
        with pytest.raises(InvalidArgument, match="must be"):
            fetch(tmp_path / "out", digest, url)
    with pytest.raises(InvalidArgument, match="64 hexadecimal"):
        fetch(tmp_path / "out", "sha256:1")


@pytest.mark.parametrize("url", ["http://[a", "https://localhost:x/a.tar", "http://a b/c.tar", "oci://localhost:x/a:1"])
def test_what_is_no_url(tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert main([str(tmp_path / "out"), "--digest", f"sha256:{'0' * 64}", "--url", url]) == 2
    assert f"error: url {url!r}" in capsys.readouterr().err


def test_a_connection_that_breaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Within a chunk, which http.client has an error of its own for."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\nhalf")

        thread = Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.tar"
        assert main([str(tmp_path / "out"), "--digest", f"sha256:{'0' * 64}", "--url", url]) == 1
        thread.join()
    assert capsys.readouterr().err.startswith("error: ")


def test_a_token_is_not_asked_for_in_the_open() -> None:
    registry = Registry("https://registry.example/v2/a/b", "me:secret", timeout_s=1)
    with pytest.raises(Unavailable, match="must be https"):
        registry.authorize('Bearer realm="http://registry.example/token"')
