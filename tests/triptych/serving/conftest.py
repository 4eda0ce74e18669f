"""Settings of the shell that runs the tests stay out of them."""

import os

import pytest


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("LLM_", "ENCODER_", "TRIPTYCH_"))]:
        monkeypatch.delenv(name)
