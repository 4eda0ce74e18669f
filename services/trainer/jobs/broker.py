"""Where jobs and messages are kept: a Redis given by its URL, or one of our own on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.trainer.jobs.embedded import EmbeddedRedis
from triptych.errors import InvalidArgument, Unavailable

CONNECT_TIMEOUT_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 10.0
TLS_OPTIONS: Final = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")  # what Celery knows of a URL's


@dataclass(frozen=True)
class Broker:
    """`url` as redis-py spells it: redis://, rediss:// or unix://. `embedded` is the server that is ours to keep up."""

    url: str
    embedded: EmbeddedRedis | None = None

    @classmethod
    def at(cls, url: str) -> "Broker":
        """Raises InvalidArgument for what is no Redis."""
        try:
            redis.ConnectionPool.from_url(url).make_connection()  # which connects to nothing yet
        except (ValueError, TypeError) as error:  # the latter: an option that there is not
            raise InvalidArgument(f"broker {_shown(url)}: {error}") from None
        return cls(url)

    @classmethod
    def in_folder(cls, runs: Path) -> "Broker":
        """One of our own, in `runs/broker`; nothing is started yet."""
        embedded = EmbeddedRedis(runs.absolute() / "broker")
        return cls("", embedded)

    def ready(self) -> "Broker":
        """One that answers: ours is started where it does not run. Raises Unavailable within seconds."""
        broker = Broker(f"unix://{self.embedded.start()}", self.embedded) if self.embedded else self
        try:
            broker.client().ping()
        except (redis.RedisError, OSError) as error:
            raise Unavailable(f"broker {_shown(broker.url)} cannot be reached: {error}") from error
        return broker

    def client(self) -> "redis.Redis":
        """Text in, text out; gives up soon, for the callers know better when to try again."""
        retry = Retry(NoBackoff(), 1)  # a connection from before a restart of the server is dead once
        return redis.Redis.from_url(
            self.url,
            decode_responses=True,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            retry=retry,
        )

    @property
    def celery_url(self) -> str:
        """As Celery spells it: the same server and database, its certificate checked as redis-py does. Other options
        it takes from the app's settings, and fails over those in a URL."""
        parts = urlsplit(self.url)
        options = dict(parse_qsl(parts.query))
        database = options.get("db")
        if parts.scheme == "unix":
            return f"redis+socket://{parts.netloc}{parts.path}" + (f"?virtual_host={database}" if database else "")
        path = parts.path if database is None else f"/{database}"
        known = {key: value for key, value in options.items() if key in TLS_OPTIONS}
        tls = {"ssl_cert_reqs": "required", **known} if parts.scheme == "rediss" else {}
        return urlunsplit((parts.scheme, parts.netloc, path, urlencode(tls), ""))

    @property
    def shown(self) -> str:
        """For messages: without a password."""
        return str(self.embedded.folder) if self.embedded else _shown(self.url)


def _shown(url: str) -> str:
    scheme, mark, rest = url.rpartition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"
