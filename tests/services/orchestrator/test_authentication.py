"""Keys and tokens at a real server: who gets in, what is counted, and that nothing secret is written down."""

import asyncio
import base64
import http.server
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from services.orchestrator import key_file, tokens
from services.orchestrator.config import OrchestratorConfig
from tests.services.orchestrator.system import System
from triptych.keys import new_key, read_keys, write_keys
from triptych.v1 import orchestrator_pb2 as pb

ISSUER: Final = "https://issuer.example"
AUDIENCE: Final = "triptych"


def bearer(credential: str) -> dict[str, Any]:
    return {"metadata": (("authorization", f"Bearer {credential}"),)}


def add_key(path: Path, name: str, **limits: int) -> str:
    key, stored = new_key(name, **limits)
    write_keys(path, (read_keys(path) if path.exists() else {}) | {stored.id: stored})
    return key


@pytest.fixture
def keys(tmp_path: Path, system: System, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Looked at before every call."""
    monkeypatch.setattr(key_file.KeyFile.__init__, "__defaults__", (0.0,))
    path = tmp_path / "keys.json"
    write_keys(path, {})
    system.settings["keys_file"] = path
    return path


async def code(system: System, **options: Any) -> str:
    try:
        assert await system.respond(system.request("hello"), **options)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_a_key_opens_and_nothing_else_does(system: System, keys: Path) -> None:
    key = add_key(keys, "alice")
    await system.start()
    assert await code(system, **bearer(key)) == "OK"
    assert await code(system, metadata=(("authorization", f"bearer {key}"),)) == "OK"
    other, _ = new_key("alice")
    shut = [other, key[:-1], key + "A", key.upper(), "tk_", "x", "", " ", "a.b.c", f"{key}, {key}"]
    assert {await code(system, **bearer(text)) for text in shut} == {"UNAUTHENTICATED"}
    assert await code(system) == "UNAUTHENTICATED"
    assert await code(system, metadata=(("authorization", key),)) == "UNAUTHENTICATED"
    twice = (("authorization", "Bearer x"), ("authorization", f"Bearer {key}"))
    assert await code(system, metadata=twice) == "UNAUTHENTICATED"
    with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
        await system.stub.ListComponents(pb.ListComponentsRequest())
    assert await system.stub.ListComponents(pb.ListComponentsRequest(), **bearer(key))


async def test_file_is_read_again(system: System, keys: Path) -> None:
    await system.start()
    key = add_key(keys, "alice")
    assert await code(system, **bearer(key)) == "OK"
    good = keys.read_text()
    keys.write_text("{ half")
    assert await code(system, **bearer(key)) == "OK"
    keys.write_text(good.replace('"disabled": false', '"disabled": true'))
    assert await code(system, **bearer(key)) == "PERMISSION_DENIED"
    write_keys(keys, {})
    assert await code(system, **bearer(key)) == "UNAUTHENTICATED"


async def test_spent_requests_say_when_to_come_again(system: System, keys: Path) -> None:
    key, other = add_key(keys, "alice", per_minute=2), add_key(keys, "bob", per_day=1)
    await system.start()
    assert [await code(system, **bearer(key)) for _ in range(2)] == ["OK", "OK"]
    error = await system.refused(system.request("hello"), **bearer(key))
    facts = dict(error.trailing_metadata())
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "alice has used its 2 requests a minute" in str(error.details())
    assert facts["retry-after-ms"] == "30000"
    assert await code(system, **bearer(other)) == "OK"
    assert await code(system, **bearer(other)) == "RESOURCE_EXHAUSTED"
    assert await system.stub.ListComponents(pb.ListComponentsRequest(), **bearer(key))  # not counted
    system.now_s += 30
    assert await code(system, **bearer(key)) == "OK"


async def test_nothing_secret_is_written_down(
    system: System, keys: Path, caplog: pytest.LogCaptureFixture, provider: "Provider"
) -> None:
    """Neither keys nor tokens, good or bad, in logs, metrics, errors or the file; callers' names are."""
    caplog.set_level(logging.DEBUG)
    key, stranger = add_key(keys, "alice", per_minute=1), new_key("mallory")[0]
    provider.configure(system)
    await system.start()
    api_keys, tokens = [key, stranger], [provider.token(), provider.token(aud="other")]
    sent = [*api_keys, *tokens, "junk-credential-1234"]
    errors = []
    for credential in [*sent, key]:
        try:
            await system.respond(system.request("hello"), **bearer(credential))
        except grpc.aio.AioRpcError as error:
            errors.append(f"{error.details()} {error.trailing_metadata()}")
    assert len(errors) == 4
    logged = " ".join(str(vars(record)) for record in caplog.records)
    seen = logged + "".join(errors) + keys.read_text()
    proofs = [*(key.split("_", 2)[2] for key in api_keys), *(token.split(".")[2] for token in tokens)]
    assert [secret for secret in [*sent, *proofs] if secret in seen] == []
    assert "alice" in logged
    assert "subject-1" in logged


class Provider:
    """An OIDC provider: a key pair, its JWKS in a file, tokens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rotate("one")

    def rotate(self, id_: str) -> None:
        self.id = id_
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.path.write_text(json.dumps({"keys": [self.public()]}))

    def public(self) -> dict[str, Any]:
        return json.loads(RSAAlgorithm.to_jwk(self.key.public_key())) | {"kid": self.id, "alg": "RS256", "use": "sig"}

    def configure(self, system: System, **more: Any) -> None:
        system.settings.update(jwt_jwks=str(self.path), jwt_issuer=ISSUER, jwt_audience=AUDIENCE, **more)

    def token(self, **claims: Any) -> str:
        """None drops a claim."""
        now = int(time.time())
        usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "subject-1", "exp": now + 600, "iat": now}
        payload = {name: value for name, value in (usual | claims).items() if value is not None}
        return jwt.encode(payload, self.key, "RS256", headers={"kid": self.id})


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    return Provider(tmp_path / "jwks.json")


def unsigned(token: str) -> str:
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT","kid":"one"}').rstrip(b"=").decode()
    return f"{header}.{token.split('.')[1]}."


def confused(provider: Provider, token: str) -> str:
    """HS256 with the public key as its secret, the classic forgery, made by hand: PyJWT refuses to."""
    import hashlib
    import hmac

    encode: Callable[[bytes], str] = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()  # noqa: E731
    head = f"{encode(json.dumps({'alg': 'HS256', 'kid': 'one'}).encode())}.{token.split('.')[1]}"
    return f"{head}.{encode(hmac.new(json.dumps(provider.public()).encode(), head.encode(), hashlib.sha256).digest())}"


async def test_tokens(system: System, provider: Provider, tmp_path: Path) -> None:
    provider.configure(system)
    await system.start()
    good = provider.token()
    assert await code(system, **bearer(good)) == "OK"
    assert await code(system, **bearer(provider.token(aud=["x", AUDIENCE]))) == "OK"
    past = int(time.time()) - 3600
    stranger = Provider(tmp_path / "other.json")
    shut = {
        "expired": provider.token(exp=past),
        "not yet": provider.token(nbf=past + 7200),
        "issuer": provider.token(iss="https://evil.example"),
        "audience": provider.token(aud="other"),
        "no exp": provider.token(exp=None),
        "no sub": provider.token(sub=None),
        "long sub": provider.token(sub="x" * 300),
        "line break": provider.token(sub="a\nb"),
        "stranger": stranger.token(),
        "none": unsigned(good),
        "confused": confused(provider, good),
        "changed": good[:-8] + "AAAAAAAA",
        "long": good + "A" * 6144,
    }
    assert {name: await code(system, **bearer(token)) for name, token in shut.items()} == dict.fromkeys(
        shut, "UNAUTHENTICATED"
    )


async def test_scope_and_limits_of_tokens(system: System, provider: Provider) -> None:
    provider.configure(system, jwt_scope="draw", jwt_per_minute=1)
    await system.start()
    assert await code(system, **bearer(provider.token(scope="read drawing"))) == "PERMISSION_DENIED"
    assert await code(system, **bearer(provider.token(scope=7))) == "PERMISSION_DENIED"
    assert await code(system, **bearer(provider.token(scope="read draw"))) == "OK"
    assert await code(system, **bearer(provider.token(scp=["draw"]))) == "RESOURCE_EXHAUSTED"
    assert await code(system, **bearer(provider.token(sub="subject-2", scp=["draw"]))) == "OK"


async def test_rotated_keys_are_found(system: System, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MIN_AGE_S", 0.0)
    provider.configure(system)
    await system.start()
    assert await code(system, **bearer(provider.token())) == "OK"
    provider.rotate("two")
    assert await code(system, **bearer(provider.token())) == "OK"


class Published(http.server.BaseHTTPRequestHandler):
    body = b""
    num_requests = 0

    def do_GET(self) -> None:
        Published.num_requests += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(Published.body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def published(provider: Provider) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Published)
    Published.body, Published.num_requests = provider.path.read_bytes(), 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/jwks"
    server.shutdown()
    server.server_close()


async def test_unknown_key_ids_do_not_flood_the_provider(system: System, provider: Provider, published: str) -> None:
    provider.configure(system)
    system.settings["jwt_jwks"] = published
    await system.start()
    assert await code(system, **bearer(provider.token())) == "OK"
    provider.id = "unknown"
    forged = [code(system, **bearer(provider.token())) for _ in range(20)]
    assert set(await asyncio.gather(*forged)) == {"UNAUTHENTICATED"}
    assert Published.num_requests == 1


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys": 7}', b'{"keys": [{}]}', b"\xff", b"x" * (2**20 + 1)])
async def test_without_usable_keys_nobody_gets_in(
    system: System, provider: Provider, published: str, body: bytes
) -> None:
    provider.configure(system)
    system.settings["jwt_jwks"] = published
    Published.body = body
    await system.start()
    assert await code(system, **bearer(provider.token())) == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"jwt_jwks": "http://issuer.example/jwks", "jwt_issuer": "i", "jwt_audience": "a"}, "must be https"),
        ({"jwt_jwks": "ftp://issuer.example/jwks", "jwt_issuer": "i", "jwt_audience": "a"}, "a file or an https URL"),
        ({"jwt_jwks": "jwks.json", "jwt_issuer": "i"}, "jwt-audience"),
    ],
)
def test_settings_that_would_let_forgers_in(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OrchestratorConfig(**settings)
