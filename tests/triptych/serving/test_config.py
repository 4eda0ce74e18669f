"""Settings: flags over variables over defaults, and no typo that goes unnoticed."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from triptych.serving.config import ComponentConfig, ServingConfig


class Config(ComponentConfig):
    model_config = SettingsConfigDict(env_prefix="ENCODER_")


def test_defaults() -> None:
    config = Config.from_args(["--checkpoint", "ckpt/encoder"])
    assert (config.host, config.port, config.metrics_port, config.address_file) == ("127.0.0.1", 0, None, None)
    assert (config.checkpoint, config.device, config.dtype) == (Path("ckpt/encoder"), "auto", "auto")
    assert config.service == "encoder"


def test_flags_win_over_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCODER_CHECKPOINT", "from/env")
    monkeypatch.setenv("ENCODER_MAX_QUEUE_SIZE", "7")
    monkeypatch.setenv("ENCODER_PORT", "5001")
    config = Config.from_args(["--port", "5002", "--drain-timeout-s=1.5"])
    assert (config.checkpoint, config.max_queue_size, config.port) == (Path("from/env"), 7, 5002)
    assert config.drain_timeout_s == 1.5


def test_none_switches_metrics_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCODER_METRICS_PORT", "9090")
    assert Config.from_args(["--checkpoint", "c"]).metrics_port == 9090
    assert Config.from_args(["--checkpoint", "c", "--metrics-port", "none"]).metrics_port is None


def test_frozen_and_strict() -> None:
    config = Config(checkpoint=Path("c"))
    with pytest.raises(ValidationError):
        config.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="prot"):
        Config(checkpoint=Path("c"), prot=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("argv", "variables", "message"),
    [
        (["--checkpont", "c"], {}, "unrecognized arguments: --checkpont"),
        (["--checkpoint", "c", "extra"], {}, "unrecognized arguments: extra"),
        ([], {}, "--checkpoint / ENCODER_CHECKPOINT: Field required"),
        (
            ["--checkpoint", "c", "--port", "70000"],
            {},
            "--port / ENCODER_PORT: .*less than or equal to 65535, got '70000'",
        ),
        (["--checkpoint", "c", "--max-queue-size", "0"], {}, "--max-queue-size .* greater than or equal to 1, got '0'"),
        (
            ["--checkpoint", "c"],
            {"ENCODER_DEVICE": "tpu"},
            "--device / ENCODER_DEVICE: .*'auto', 'cpu' or 'cuda'.*'tpu'",
        ),
        (
            ["--checkpoint", "c"],
            {"ENCODER_PROT": "1"},
            "unknown environment variables: ENCODER_PROT; known: .*ENCODER_PORT",
        ),
        (["--checkpoint", "c"], {"ENCODER_PORT": "tcp://10.0.0.1:80"}, "--port / ENCODER_PORT: .*integer"),
    ],
)
def test_mistakes_are_readable(
    argv: list[str],
    variables: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        Config.from_args(argv)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert re.search(message, err), err
    assert "Traceback" not in err


def test_help_names_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Config.from_args(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for name, field in Config.model_fields.items():
        assert f"--{name.replace('_', '-')}" in out
        assert field.description, f"{name} has no description"


def test_another_services_variables_are_no_business_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECODER_ANYTHING", "1")
    assert Config.from_args(["--checkpoint", "c"]).port == 0


def test_a_config_without_a_service_reads_only_its_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "elsewhere")
    assert ServingConfig().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", "0.0.0.0"], "--insecure|insecure where"),
        (["--tls-dir", "a", "--tls-ca", "b"], "tls-dir is given"),
        (["--tls-cert", "a"], "both or neither"),
    ],
)
def test_door_is_closed(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        Config.from_args(["--checkpoint", "x", *flags])
    assert exited.value.code == 2
    assert re.search(said, capsys.readouterr().err)


def test_door_is_open_where_said() -> None:
    assert Config.from_args(["--checkpoint", "x", "--host", "0.0.0.0", "--insecure"]).tls is None
    config = Config.from_args(["--checkpoint", "x", "--host", "0.0.0.0", "--tls-dir", "certs"])
    assert config.tls is not None
    assert config.tls.key == Path("certs/tls.key")
