"""URLs that are no Redis are refused before anything connects, and never shown with their password."""

import pytest

from services.trainer.jobs.broker import Broker
from triptych.errors import InvalidArgument


@pytest.mark.parametrize(
    "url",
    [
        "amqp://me:secret@host",
        "host:6379",
        "redis://me:secret@localhost:notaport/0",
        "redis://me:secret@[::1/0",
        "redis://me:secret@localhost/0?socket_timeout=abc",
        "redis://me:secret@localhost/0?sockets=3",
    ],
)
def test_what_is_no_redis(url: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^broker .*: ") as raised:
        Broker.at(url)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["redis://:secret@host:1/0", "rediss://host/2?socket_timeout=5", "unix:///a/b.sock?db=1"]
)
def test_what_is_one(url: str) -> None:
    assert Broker.at(url).shown == url.replace(":secret@", "")
