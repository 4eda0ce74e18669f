from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.processes import System
from triptych.client import Client
from triptych.models.unified import UnifiedModel


@pytest.fixture
def client(system: System) -> Iterator[Client]:
    with Client(system.address, timeout_s=60) as made:
        yield made


@pytest.fixture(scope="session")
def unified(system_checkpoint: Path) -> UnifiedModel:
    """The same weights in this process."""
    return UnifiedModel.load(system_checkpoint)
