"""Settings of one process: command line over environment over defaults, checked once, then frozen."""

import os
import sys
from pathlib import Path
from typing import Literal, NoReturn, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from triptych import traces
from triptych.errors import InvalidArgument
from triptych.tls import TlsFiles, check_host


class ServingConfig(BaseSettings):
    """What every gRPC process can be told. A service subclasses it and sets `env_prefix` ("ENCODER_"); its fields are
    then flags (--max-queue-size) and variables (ENCODER_MAX_QUEUE_SIZE). "none" stands for None.

    Kubernetes adds variables such as ENCODER_PORT for a Service named `encoder`: switch that off
    (enableServiceLinks: false), for an unknown variable is an error here.
    """

    model_config = SettingsConfigDict(
        env_prefix="TRIPTYCH_",
        frozen=True,
        extra="forbid",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_parse_none_str="none",
        env_parse_none_str="none",
        validate_default=True,
    )

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(0, ge=0, le=65535, description="0 picks a free one")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Prometheus endpoint; 0 picks a free one, none: off"
    )
    health_port: int | None = Field(
        None, ge=0, le=65535, description="health checks alone, without TLS, for probes; 0 picks a free one, none: off"
    )
    max_message_bytes: int = Field(64 * 2**20, ge=4096, description="largest gRPC message, in and out")
    max_queue_size: int = Field(64, ge=1, description="requests that may wait; one more is RESOURCE_EXHAUSTED")
    drain_timeout_s: float = Field(30.0, ge=0, description="how long running calls may go on after SIGTERM")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level written")
    log_format: Literal["json", "text"] = Field("json", description="JSON lines or readable text, on stderr")
    traces: str = Field(
        traces.OFF,
        pattern=traces.PATTERN,
        description="where spans go: off, console (stderr), otlp://host:port or otlps://host:port",
    )
    traces_ratio: float = Field(1.0, ge=0, le=1, description="share of the traces begun here that is kept")
    address_file: Path | None = Field(None, description='file that gets "host:port" once the server listens')
    tls_dir: Path | None = Field(None, description="folder with tls.crt, tls.key and ca.crt; TLS is on with it")
    tls_cert: Path | None = Field(None, description="certificate (PEM, chain included); instead of tls-dir")
    tls_key: Path | None = Field(None, description="its key, not encrypted")
    tls_ca: Path | None = Field(None, description="the authority that signs the other side's certificates")
    tls_require_client_cert: bool = Field(True, description="callers show a certificate of that authority (mTLS)")
    insecure: bool = Field(False, description="listen without TLS on an address that other machines reach")

    @model_validator(mode="after")
    def _check_door(self) -> Self:
        if self.tls_dir is not None and (self.tls_cert or self.tls_key or self.tls_ca):
            raise ValueError("tls-dir is given, tls-cert, tls-key and tls-ca must not be")
        try:
            check_host(self.host, self.tls, insecure=self.insecure)
        except InvalidArgument as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """None: plaintext. Raises InvalidArgument for half a pair."""
        if self.tls_dir is not None:
            return TlsFiles.in_folder(self.tls_dir)
        if self.tls_cert or self.tls_key or self.tls_ca:
            return TlsFiles(self.tls_cert, self.tls_key, self.tls_ca)
        return None

    @property
    def service(self) -> str:
        """The process's name, as in its folder: encoder, llm, decoder, orchestrator."""
        return _prefix(type(self)).rstrip("_").lower()

    @classmethod
    def from_args(cls, argv: list[str]) -> Self:
        """Reads flags and environment. Exits with code 2 and a readable message when either is wrong."""
        program = f"python -m {cls.__module__.removesuffix('.config')}"
        if unknown := _unknown_variables(cls):
            _fail(program, f"unknown environment variables: {', '.join(unknown)}; {_known_variables(cls)}")
        try:
            return cls(_cli_parse_args=argv, _cli_prog_name=program)
        except ValidationError as error:
            _fail(program, "; ".join(_explain(cls, mistake) for mistake in error.errors()))


class ComponentConfig(ServingConfig):
    """What encoder, LLM and decoder services add: a component's folder and where to run it."""

    checkpoint: Path = Field(description="the component's own folder, with its card.json")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one")
    dtype: Literal["auto", "f32", "bf16"] = Field("auto", description="compute dtype; auto: bf16 on cuda, f32 on cpu")
    share: float = Field(1, ge=0, le=1, description="of the requests, at most, while another generation serves too")
    release: str = Field("", max_length=128, description="what else makes this build another one, as an image's tag")


def _prefix(cls: type[ServingConfig]) -> str:
    return str(cls.model_config["env_prefix"])


def _unknown_variables(cls: type[ServingConfig]) -> list[str]:
    """Variables with the service's prefix that are no field: a typo must not become a default."""
    prefix = _prefix(cls)
    known = {f"{prefix}{name}".upper() for name in cls.model_fields}
    mine = {name for name in os.environ if name.upper().startswith(prefix)}
    return sorted(name for name in mine if name.upper() not in known)


def _known_variables(cls: type[ServingConfig]) -> str:
    return "known: " + ", ".join(f"{_prefix(cls)}{name.upper()}" for name in cls.model_fields)


def _explain(cls: type[ServingConfig], mistake: ErrorDetails) -> str:
    """Flag, variable, what is wrong, and the value."""
    if not mistake["loc"]:  # of several fields together: the message names them
        return mistake["msg"]
    field = str(mistake["loc"][0])
    got = "" if mistake["type"] == "missing" else f", got {mistake['input']!r}"
    return f"--{field.replace('_', '-')} / {_prefix(cls)}{field.upper()}: {mistake['msg']}{got}"


def _fail(program: str, message: str) -> NoReturn:
    print(f"{program}: error: {message}", file=sys.stderr)
    raise SystemExit(2)
