"""JWTs of an OIDC provider: signature by one of its published keys (JWKS), issuer, audience, time. PyJWT does it."""

import asyncio
import json
import logging
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from triptych.errors import InvalidArgument, PermissionDenied, Unauthenticated, Unavailable
from triptych.tls import is_loopback

if TYPE_CHECKING:
    import jwt

log = logging.getLogger(__name__)

# Public-key signatures only: with HS256 the published key would be the secret.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LEEWAY_S: Final = 30
MAX_AGE_S: Final = 300.0  # keys are fetched again after this long
MIN_AGE_S: Final = 10.0  # and for an unknown key id, not more often than this
FETCH_TIMEOUT_S: Final = 5.0  # all of it: those who wait must not wait for a provider that drips
MAX_JWKS_BYTES: Final = 2**20
MAX_TOKEN_CHARS: Final = 6144  # gRPC drops some headers from 8 KiB up
MAX_SUBJECT_CHARS: Final = 256


@dataclass(frozen=True)
class TokenRules:
    """`jwks` is a file or an https URL; `scope`, where set, must be among the token's scopes."""

    jwks: str
    issuer: str
    audience: str
    scope: str = ""

    def __post_init__(self) -> None:
        if not self.issuer or not self.audience:
            raise InvalidArgument("jwt-jwks is set, jwt-issuer and jwt-audience must be, too")
        url = urlsplit(self.jwks)
        if url.scheme == "http" and not is_loopback(url.hostname or ""):
            raise InvalidArgument(f"jwt-jwks is {self.jwks}, must be https: whoever sits on the way could sign tokens")
        if "://" in self.jwks and url.scheme not in ("http", "https"):
            raise InvalidArgument(f"jwt-jwks is {self.jwks}, must be a file or an https URL")


class Tokens:
    """Verifies tokens. Keys are fetched when first needed, on a thread."""

    def __init__(self, rules: TokenRules) -> None:
        self._rules = rules
        self._keys: dict[str, jwt.PyJWK] = {}
        self._read_s = float("-inf")
        self._fetch: asyncio.Task[None] | None = None

    async def subject(self, token: str) -> str:
        """Whose token it is. Raises Unauthenticated, PermissionDenied without the scope, Unavailable without keys."""
        import jwt

        if len(token) > MAX_TOKEN_CHARS:
            raise Unauthenticated(f"the token has {len(token)} characters, must have at most {MAX_TOKEN_CHARS}")
        try:
            key = await self._key(str(jwt.get_unverified_header(token).get("kid", "")))
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],  # the key's own: the token's header has no say
                issuer=self._rules.issuer,
                audience=self._rules.audience,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"the token is not valid: {_reason(error)}") from None
        return self._allowed(claims)

    def _allowed(self, claims: dict[str, Any]) -> str:
        subject = str(claims["sub"])
        if not 0 < len(subject) <= MAX_SUBJECT_CHARS or not subject.isprintable():
            raise Unauthenticated(f"the token's sub must be 1 to {MAX_SUBJECT_CHARS} printable characters")
        given = claims.get("scope", claims.get("scp", ""))
        scopes = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
        if self._rules.scope and self._rules.scope not in scopes:
            raise PermissionDenied(f"the token has no scope {self._rules.scope!r}", stage="orchestrator")
        return subject

    async def _key(self, id_: str) -> "jwt.PyJWK":
        age_s = time.monotonic() - self._read_s  # of before the fetch under way, if one is
        if age_s > MAX_AGE_S or (id_ not in self._keys and age_s > MIN_AGE_S):
            await self._fetched()
        if not self._keys:
            raise Unavailable("the keys that tokens are checked against cannot be had", stage="orchestrator")
        if id_ not in self._keys:
            raise Unauthenticated("the token is signed with a key that is not published")
        return self._keys[id_]

    async def _fetched(self) -> None:
        """One fetch for all who wait. It is nobody's own: a caller who goes away does not end it."""
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.create_task(self._renew())
        await asyncio.shield(self._fetch)

    async def _renew(self) -> None:
        """Keeps the keys it has when there are no new ones to be had."""
        try:
            self._keys = await asyncio.wait_for(asyncio.to_thread(_published, self._rules.jwks), FETCH_TIMEOUT_S)
        except (OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            log.warning("token keys not taken up", extra={"reason": f"{self._rules.jwks}: {reason}"})
        finally:
            self._read_s = time.monotonic()


def _published(jwks: str) -> dict[str, "jwt.PyJWK"]:
    """By key id. Raises OSError or ValueError."""
    import jwt

    if "://" in jwks:
        with urllib.request.urlopen(jwks, timeout=FETCH_TIMEOUT_S) as response:
            data = response.read(MAX_JWKS_BYTES + 1)
    else:
        with Path(jwks).open("rb") as file:
            data = file.read(MAX_JWKS_BYTES + 1)
    if len(data) > MAX_JWKS_BYTES:
        raise ValueError(f"more than {MAX_JWKS_BYTES} bytes")
    try:
        keys = jwt.PyJWKSet.from_dict(json.loads(data)).keys
    except (jwt.PyJWTError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"no set of keys: {type(error).__name__}") from error
    return {key.key_id or "": key for key in keys if key.algorithm_name in ALGORITHMS}


def _reason(error: Exception) -> str:
    """What PyJWT calls it: its messages hold claims, its class names hold nothing of the caller's."""
    return type(error).__name__.removesuffix("Error")
