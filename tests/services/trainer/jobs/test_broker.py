"""URLs that are no Redis are refused before anything connects, and never shown with their password; those that are one
mean the same to Celery."""

import pytest
from celery.backends.redis import RedisBackend
from celery.result import denied_join_result

from services.trainer.app import configure
from services.trainer.jobs.broker import Broker
from services.trainer.jobs.settings import JobSettings
from services.trainer.jobs.store import JobStore
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


@pytest.mark.parametrize(
    ("url", "celery_url"),
    [
        ("redis://:secret%40@host:1/2", "redis://:secret%40@host:1/2"),
        ("redis://host?db=3&socket_timeout=5", "redis://host/3"),
        ("unix:///a/b.sock", "redis+socket:///a/b.sock"),
        ("unix://:secret@/a/b.sock?db=1", "redis+socket://:secret@/a/b.sock?virtual_host=1"),
        ("rediss://host/2?socket_timeout=5", "rediss://host/2?ssl_cert_reqs=required"),
        (
            "rediss://host/2?ssl_cert_reqs=none&ssl_ca_certs=ca.pem",
            "rediss://host/2?ssl_cert_reqs=none&ssl_ca_certs=ca.pem",
        ),
    ],
)
def test_celery_goes_to_the_same_database_in_the_same_way(url: str, celery_url: str) -> None:
    assert Broker.at(url).celery_url == celery_url
    app = configure(Broker.at(url), JobSettings())
    ours = Broker.at(url).client().connection_pool.connection_kwargs
    theirs = RedisBackend(app=app, url=celery_url.removeprefix("redis+")).connparams
    assert int(theirs["db"] or 0) == ours.get("db", 0)
    assert theirs.get("path") == ours.get("path")


def test_messages_and_jobs_are_in_one_database(store: JobStore) -> None:
    """Patrols look at the queues' lengths through the store's connection."""
    kwargs = store.redis.connection_pool.connection_kwargs
    broker = Broker.at(f"unix://{kwargs['path']}?db=2&socket_timeout=5")
    app = configure(broker, JobSettings())
    app.close()
    app.amqp._producer_pool = None  # of an earlier test's broker
    with denied_join_result():
        app.send_task("triptych.nothing", queue="waiting")
    assert broker.client().llen("waiting") == 1
    assert store.redis.llen("waiting") == 0
