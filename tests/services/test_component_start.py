"""A replica that is not what its card says must not serve: exit code 1 and one readable line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
import torch

from services.decoder.config import DecoderConfig
from services.decoder.process import assemble as assemble_decoder
from services.encoder.config import EncoderConfig
from services.encoder.process import assemble as assemble_encoder
from services.llm.config import LlmConfig
from services.llm.process import assemble as assemble_llm
from tests.services.components import ROOT, run_service
from tests.tiny import write_tiny_checkpoint
from triptych.card import read_card, write_card
from triptych.errors import CheckpointError, FailedPrecondition, ProbeError, TriptychError
from triptych.serving.component import Engine
from triptych.serving.config import ComponentConfig

SERVICES = ("encoder", "llm", "decoder")
WEIGHTS = {
    "encoder": "vision/model.safetensors",
    "llm": "model.safetensors",
    "decoder": "unet/diffusion_pytorch_model.safetensors",
}


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x40
    path.write_bytes(data)


def seal(folder: Path) -> None:
    """The card takes the folder as it is: only the probes can tell now."""
    write_card(folder, read_card(folder))


def engine_of(service: str, checkpoint: Path, device: Literal["cpu", "cuda"] = "cpu") -> Engine:
    folder = checkpoint / service
    if service == "encoder":
        return assemble_encoder(EncoderConfig(checkpoint=folder, device=device), "r")[1]
    if service == "llm":
        return assemble_llm(LlmConfig(checkpoint=folder, device=device), "r")[1]
    return assemble_decoder(DecoderConfig(checkpoint=folder, device=device), "r")[1]


async def start_error(service: str, checkpoint: Path) -> TriptychError:
    """What keeps the engine from starting."""
    engine = engine_of(service, checkpoint)
    try:
        with pytest.raises(TriptychError) as caught:
            await engine.start()
    finally:
        await engine.stop()
    return caught.value


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("service", SERVICES)
async def test_bf16_on_a_gpu_passes_the_probes(tiny_checkpoint: Path, service: str) -> None:
    engine = engine_of(service, tiny_checkpoint, "cuda")
    assert await engine.start() > 0.999
    await engine.stop()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_no_such_device(tiny_checkpoint: Path) -> None:
    with pytest.raises(FailedPrecondition, match="torch sees no CUDA device"):
        engine_of("llm", tiny_checkpoint, "cuda")


@pytest.mark.parametrize("service", SERVICES)
async def test_changed_weights_miss_their_digest(copied_checkpoint: Path, service: str) -> None:
    flip_a_byte(copied_checkpoint / service / WEIGHTS[service])
    error = await start_error(service, copied_checkpoint)
    assert isinstance(error, CheckpointError)
    assert f"{service} tiny 1.0.0" in str(error)
    assert str(error).count("sha256:") == 2


@pytest.mark.parametrize("service", SERVICES)
async def test_another_run_s_weights_miss_the_probes(copied_checkpoint: Path, tmp_path: Path, service: str) -> None:
    other = write_tiny_checkpoint(tmp_path / "other", seed=1) / service / WEIGHTS[service]
    (copied_checkpoint / service / WEIGHTS[service]).write_bytes(other.read_bytes())
    seal(copied_checkpoint / service)
    error = await start_error(service, copied_checkpoint)
    assert isinstance(error, ProbeError)
    assert "must be at least 0.999" in str(error)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_mean", [0.48, 0.46, 0.41]),
        ("image_std", [0.52, 0.52, 0.52]),
        ("resample", 2),
    ],
)
async def test_changed_preprocessing_misses_the_probes(copied_checkpoint: Path, key: str, value: object) -> None:
    config = copied_checkpoint / "encoder" / "vision" / "preprocessor_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    seal(copied_checkpoint / "encoder")
    error = await start_error("encoder", copied_checkpoint)
    assert isinstance(error, ProbeError), error


async def test_preprocessing_of_another_size(copied_checkpoint: Path) -> None:
    config = copied_checkpoint / "encoder" / "vision" / "preprocessor_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"size": {"height": 48, "width": 48}}))
    seal(copied_checkpoint / "encoder")
    assert "preprocessing resizes to 48, the encoder takes 32" in str(await start_error("encoder", copied_checkpoint))


async def test_changed_noise_schedule_misses_the_probes(copied_checkpoint: Path) -> None:
    config = copied_checkpoint / "decoder" / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"beta_end": 0.0125}))
    seal(copied_checkpoint / "decoder")
    error = await start_error("decoder", copied_checkpoint)
    assert "probe 'schedule'" in str(error)


async def test_no_probes(copied_checkpoint: Path) -> None:
    card = copied_checkpoint / "llm" / "card.json"
    values = json.loads(card.read_text())
    del values["probes"]
    card.write_text(json.dumps(values))
    assert "has no golden probes" in str(await start_error("llm", copied_checkpoint))


def test_card_of_another_kind(tiny_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="llm tiny 1.0.0 has no output 'embeddings'"):
        assemble_encoder(EncoderConfig(checkpoint=tiny_checkpoint / "llm", device="cpu"), "r")
    with pytest.raises(CheckpointError, match="encoder tiny 1.0.0 has no input 'embeddings'"):
        assemble_llm(LlmConfig(checkpoint=tiny_checkpoint / "encoder", device="cpu"), "r")


@pytest.mark.parametrize("fact", ["special_tokens", "max_model_len", "default_max_tokens"])
def test_card_that_misses_a_fact(copied_checkpoint: Path, fact: str) -> None:
    card = copied_checkpoint / "llm" / "card.json"
    values = json.loads(card.read_text())
    del values["facts"][fact]
    card.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=f"llm tiny 1.0.0: facts.{fact} is None"):
        assemble_llm(LlmConfig(checkpoint=copied_checkpoint / "llm", device="cpu"), "r")


def test_process_says_why_in_one_line(copied_checkpoint: Path) -> None:
    flip_a_byte(copied_checkpoint / "encoder" / WEIGHTS["encoder"])
    ended = run_service("encoder", "--checkpoint", str(copied_checkpoint / "encoder"), "--log-level", "error")
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    line = ended.stderr.strip().splitlines()[-1]
    assert line.startswith("encoder: encoder tiny 1.0.0 in ")
    assert "half-copied or changed" in line


@pytest.mark.parametrize("service", SERVICES)
def test_help_lists_every_option(service: str) -> None:
    ended = run_service(service, "--help")
    configs: dict[str, type[ComponentConfig]] = {
        "encoder": EncoderConfig,
        "llm": LlmConfig,
        "decoder": DecoderConfig,
    }
    assert ended.returncode == 0
    assert not [name for name in configs[service].model_fields if f"--{name.replace('_', '-')}" not in ended.stdout]


def test_process_listens_and_drains(tiny_checkpoint: Path, tmp_path: Path) -> None:
    address = tmp_path / "address"
    command = [sys.executable, "-m", "services.llm", "--checkpoint", str(tiny_checkpoint / "llm")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--address-file", str(address)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            for _ in range(600):
                if address.exists() or process.poll() is not None:
                    break
                time.sleep(0.1)
            assert address.read_text().startswith("127.0.0.1:")
        finally:
            process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    lines = [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]
    assert {line["service"] for line in lines} == {"llm"}
