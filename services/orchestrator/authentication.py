"""Who calls, and whether they may: API keys and JWTs out of the `authorization` header, limits for each caller."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from services.orchestrator.allowance import Allowances
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.key_file import KeyFile
from services.orchestrator.tokens import Tokens
from triptych.errors import PermissionDenied, Unauthenticated
from triptych.keys import looks_like_key
from triptych.serving import caller
from triptych.serving.interceptors import AroundInterceptor, Context

OPEN: Final = ("/grpc.health.v1.Health/Check",)  # probes have no key
COUNTED: Final = "/triptych.v1.OrchestratorService/Respond"
HEADER: Final = "authorization"


@dataclass(frozen=True)
class Caller:
    """`id` is what is counted under, `name` what is said and logged. Bounds of 0 are none."""

    id: str
    name: str
    per_minute: int
    per_day: int


class AuthenticationInterceptor(AroundInterceptor):
    """UNAUTHENTICATED without a valid key or token, PERMISSION_DENIED for a disabled key or a token without the scope,
    RESOURCE_EXHAUSTED when the caller's requests are spent. What was sent is never logged or repeated."""

    def __init__(
        self, config: OrchestratorConfig, keys: KeyFile | None, tokens: Tokens | None, now_s: Callable[[], float]
    ) -> None:
        self._config = config
        self._keys = keys
        self._tokens = tokens
        self._allowances = Allowances(now_s)

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        if method not in OPEN:
            found = await self._caller(_credential(context))
            caller.current.set(found.name)
            if method == COUNTED:
                self._allowances.take(found.id, found.name, found.per_minute, found.per_day)
        yield

    async def _caller(self, credential: str) -> Caller:
        if self._keys is not None and looks_like_key(credential):
            stored = self._keys.find(credential)
            if stored is None:
                raise Unauthenticated("the API key is not known", stage="orchestrator")
            if stored.disabled:
                raise PermissionDenied(f"the API key of {stored.name} is disabled", stage="orchestrator")
            return Caller(f"key {stored.id}", stored.name, stored.per_minute, stored.per_day)
        if self._tokens is not None:
            subject = await self._tokens.subject(credential)
            return Caller(f"token {subject}", subject, self._config.jwt_per_minute, self._config.jwt_per_day)
        raise Unauthenticated("the API key is not known", stage="orchestrator")


def authentication(
    config: OrchestratorConfig, now_s: Callable[[], float] = time.time
) -> tuple[AuthenticationInterceptor, ...]:
    """None or one, as the settings say. Raises InvalidArgument when the key file cannot be read."""
    if config.keys_file is None and not config.jwt_jwks:
        return ()
    keys = KeyFile(config.keys_file) if config.keys_file is not None else None
    tokens = Tokens(config.token_rules) if config.token_rules is not None else None
    return (AuthenticationInterceptor(config, keys, tokens, now_s),)


def _credential(context: Context) -> str:
    """What stands after "Bearer". Raises Unauthenticated when there is none, or more than one."""
    sent = [str(value) for key, value in context.invocation_metadata() or () if key == HEADER]
    if len(sent) != 1:
        raise Unauthenticated(f"{len(sent)} {HEADER} headers, must be one: Bearer KEY", stage="orchestrator")
    scheme, _, credential = sent[0].partition(" ")
    if scheme.lower() != "bearer" or not credential:
        raise Unauthenticated(f"the {HEADER} header must be: Bearer KEY", stage="orchestrator")
    return credential.strip()
