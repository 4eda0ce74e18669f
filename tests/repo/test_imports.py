"""What must stay light stays light: imported in a process of its own, torch is not there."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "diffusers", "accelerate")
LIGHT = (
    *("triptych", "triptych.client", "triptych.cli", "triptych.serving.server", "services.orchestrator.__main__"),
    *("services.trainer.prepare", "services.trainer.data.queued", "services.trainer.__main__"),  # they are many
    *("services.trainer.tasks", "services.trainer.jobs.commands"),  # Celery forks, which CUDA does not survive
)
BASE_ONLY = ("triptych.client", "triptych.cli", "triptych.card", "triptych.tensors", "triptych.status")
# grpc itself loads grpc_health and grpc_reflection where they are installed, so those say nothing.
SERVING_EXTRA = ("pydantic_settings", "prometheus_client", "safetensors")


def present_after(module: str, names: tuple[str, ...]) -> str:
    """Which of `names` are loaded by importing `module`."""
    code = f"import sys, {module}; print(*[name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", LIGHT)
def test_no_torch(module: str) -> None:
    assert present_after(module, HEAVY) == ""


@pytest.mark.parametrize("module", BASE_ONLY)
def test_base_install_is_enough(module: str) -> None:
    assert present_after(module, SERVING_EXTRA) == ""


def test_importing_the_library_loads_nothing_else() -> None:
    assert present_after("triptych", ("grpc", "numpy", "google.protobuf", "rich", "typer")) == ""
