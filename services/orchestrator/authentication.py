"""Who calls, and whether they may: API keys and JWTs out of the `authorization` header."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.key_file import KeyFile
from services.orchestrator.tokens import Tokens
from triptych.errors import PermissionDenied, Unauthenticated
from triptych.keys import looks_like_key
from triptych.serving import caller
from triptych.serving.interceptors import AroundInterceptor, Context

OPEN: Final = ("/grpc.health.v1.Health/Check",)  # probes have no key
HEADER: Final = "authorization"


@dataclass(frozen=True)
class Caller:
    """`id` is what is counted under, `name` what is said and logged. Bounds of 0 are none."""

    id: str
    name: str
    per_minute: int
    per_day: int


known: Final[ContextVar[Caller]] = ContextVar("known")  # whose call it is, once that is proven


class AuthenticationInterceptor(AroundInterceptor):
    """UNAUTHENTICATED without a valid key or token, PERMISSION_DENIED for a disabled key or a token without the scope.
    What was sent is never logged or repeated."""

    def __init__(self, config: OrchestratorConfig, keys: KeyFile | None, tokens: Tokens | None) -> None:
        self._config = config
        self._keys = keys
        self._tokens = tokens

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        if method not in OPEN:
            found = await self._caller(_credential(context))
            known.set(found)
            caller.current.set(found.name)
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


def _credential(context: Context) -> str:
    """What stands after "Bearer". Raises Unauthenticated when there is none, or more than one."""
    sent = [str(value) for key, value in context.invocation_metadata() or () if key == HEADER]
    if len(sent) != 1:
        raise Unauthenticated(f"{len(sent)} {HEADER} headers, must be one: Bearer KEY", stage="orchestrator")
    scheme, _, credential = sent[0].partition(" ")
    if scheme.lower() != "bearer" or not credential:
        raise Unauthenticated(f"the {HEADER} header must be: Bearer KEY", stage="orchestrator")
    return credential.strip()
