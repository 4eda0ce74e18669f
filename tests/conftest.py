"""What several test folders share: the whole system as `triptych up` starts it, over random weights."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.processes import SERVICES, TRIPTYCH, System, environment


@pytest.fixture(scope="session")
def system_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With room for a conversation and for drawings that take a while; not to be changed."""
    import torch  # here: most tests that are run alone need neither

    from tests.tiny import write_tiny_checkpoint

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("system") / "tiny"
    return write_tiny_checkpoint(folder, max_model_len=512, max_num_inference_steps=300)


@pytest.fixture(scope="session")
def system(system_checkpoint: Path) -> Iterator[System]:
    """Four processes, shared: whoever stops or overloads one starts his own."""
    log_dir = system_checkpoint.parent / "logs"
    command = [*TRIPTYCH, "up", "--checkpoint", str(system_checkpoint), "--port", "0", "--log-dir", str(log_dir)]
    metrics = {f"{service.upper()}_METRICS_PORT": "0" for service in SERVICES}
    traced = {f"{service.upper()}_TRACES": "console" for service in SERVICES}
    with subprocess.Popen(command, env=environment(**metrics, **traced), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address, "triptych up ended before it served"
            yield System(address, log_dir, system_checkpoint)
        finally:
            process.send_signal(signal.SIGTERM)
            exit_code = process.wait(60)
    assert exit_code == 0
