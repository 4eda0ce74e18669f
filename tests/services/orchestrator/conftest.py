from collections.abc import AsyncIterator

import pytest

from tests.services.orchestrator.system import System


@pytest.fixture
async def system() -> AsyncIterator[System]:
    """Not started: a test may change the components first."""
    made = System()
    try:
        yield made
    finally:
        await made.stop()
