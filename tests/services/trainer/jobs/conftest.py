from collections.abc import Iterator
from pathlib import Path

import pytest

from services.trainer.jobs.broker import Broker
from services.trainer.jobs.store import JobStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    """In a real Redis of the test's own."""
    broker = Broker.in_folder(tmp_path).ready()
    yield JobStore(broker.client())
    assert broker.embedded is not None
    broker.embedded.stop()
