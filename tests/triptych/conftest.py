from collections.abc import Iterator

import pytest

from tests.triptych.fake_orchestrator import FakeOrchestrator


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOrchestrator]:
    """What the client and the command line talk to."""
    made = FakeOrchestrator()
    monkeypatch.setenv("TRIPTYCH_ADDRESS", made.address)
    yield made
    made.stop()
