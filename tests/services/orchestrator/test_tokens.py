"""When keys are fetched, and who waits for them. What a token must say: test_authentication, at a real server."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from services.orchestrator import tokens
from services.orchestrator.tokens import TokenRules, Tokens
from tests.services.orchestrator.fakes import until
from triptych.errors import Unauthenticated, Unavailable


class Provider:
    """Publishes its keys when `may_answer` is set."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.num_fetches = 0
        self.may_answer = threading.Event()
        self.add("one")

    def add(self, id_: str) -> None:
        self.keys[id_] = ec.generate_private_key(ec.SECP256R1())

    def published(self, jwks: str) -> dict[str, jwt.PyJWK]:
        """In the place of `tokens._published`, on its thread."""
        self.num_fetches += 1
        assert self.may_answer.wait(5)
        public = {id_: json.loads(ECAlgorithm.to_jwk(key.public_key())) for id_, key in self.keys.items()}
        return {id_: jwt.PyJWK(key | {"kid": id_, "alg": "ES256"}) for id_, key in public.items()}

    def token(self, id_: str = "one", kid: str = "") -> str:
        claims = {"iss": "i", "aud": "a", "sub": "bob", "exp": time.time() + 600}
        return jwt.encode(claims, self.keys[id_], "ES256", headers={"kid": kid or id_})


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    made = Provider()
    monkeypatch.setattr(tokens, "_published", made.published)
    yield made
    made.may_answer.set()  # lets threads that still wait go


async def begun(provider: Provider, door: Tokens, token: str) -> "asyncio.Task[str]":
    """A caller whose token made a fetch begin."""
    before = provider.num_fetches
    asking = asyncio.create_task(door.subject(token))
    await until(lambda: provider.num_fetches > before)
    return asking


async def test_callers_of_the_first_fetch_all_wait_for_it(provider: Provider) -> None:
    door = Tokens(TokenRules("jwks", "i", "a"))
    first = await begun(provider, door, provider.token())
    others = [asyncio.create_task(door.subject(provider.token())) for _ in range(3)]
    await asyncio.sleep(0.02)
    provider.may_answer.set()
    assert await asyncio.gather(first, *others) == ["bob"] * 4
    assert provider.num_fetches == 1


async def test_a_new_key_waits_for_the_fetch_under_way(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MIN_AGE_S", 0.05)
    door = Tokens(TokenRules("jwks", "i", "a"))
    provider.may_answer.set()
    assert await door.subject(provider.token()) == "bob"
    provider.may_answer.clear()
    provider.add("two")
    await asyncio.sleep(0.06)
    first = await begun(provider, door, provider.token("two"))
    second = asyncio.create_task(door.subject(provider.token("two")))
    assert await door.subject(provider.token()) == "bob"  # a key that is known does not wait
    await asyncio.sleep(0.02)
    provider.may_answer.set()
    assert await asyncio.gather(first, second) == ["bob", "bob"]
    assert provider.num_fetches == 2


async def test_a_fetch_outlives_the_caller_who_began_it(provider: Provider) -> None:
    door = Tokens(TokenRules("jwks", "i", "a"))
    stranger = await begun(provider, door, provider.token(kid="made up"))
    stranger.cancel()
    await asyncio.wait((stranger,))
    asking = asyncio.create_task(door.subject(provider.token()))
    await asyncio.sleep(0.02)
    provider.may_answer.set()
    assert await asking == "bob"
    assert provider.num_fetches == 1
    with pytest.raises(Unauthenticated, match="not published"):
        await door.subject(provider.token(kid="made up"))
    assert provider.num_fetches == 1


async def test_a_provider_that_drips_is_given_up(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "FETCH_TIMEOUT_S", 0.05)
    door = Tokens(TokenRules("jwks", "i", "a"))
    with pytest.raises(Unavailable, match="cannot be had"):
        await asyncio.wait_for(door.subject(provider.token()), 2)
    provider.may_answer.set()
