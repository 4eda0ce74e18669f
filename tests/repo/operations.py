"""The tables of docs/operations.md, made from the code. `python -m tests.repo.operations` writes them anew."""

import re
from functools import cache
from pathlib import Path
from typing import Final, Literal, get_args, get_origin

import grpc.aio
from pydantic.fields import FieldInfo

from services.decoder.config import DecoderConfig
from services.encoder.config import EncoderConfig
from services.llm.config import LlmConfig
from services.orchestrator.config import OrchestratorConfig
from triptych.serving.config import ComponentConfig, ServingConfig
from triptych.serving.metrics import Described, Metrics
from triptych.serving.server import GrpcServer

ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT / "docs" / "operations.md"
CHECKPOINT: Final = ROOT / "checkpoints" / "genllava-tiny"
OWN: Final[dict[str, type[ServingConfig]]] = {
    "encoder": EncoderConfig,
    "llm": LlmConfig,
    "decoder": DecoderConfig,
    "orchestrator": OrchestratorConfig,
}
SHARED: Final[dict[str, type[ServingConfig]]] = {
    "every service": ServingConfig,
    "encoder, LLM, decoder": ComponentConfig,
}
MARKED: Final = r"(<!-- {0}: made by tests/repo/operations.py -->\n).*?(<!-- end -->)"


def tables() -> dict[str, str]:
    """Mark to table."""
    return {"settings": _settings(), "metrics": _metrics()}


def written(text: str) -> str:
    """`text` with its tables as they must be."""
    for mark, table in tables().items():
        text, count = re.subn(MARKED.format(mark), lambda m, t=table: m[1] + t + m[2], text, flags=re.DOTALL)
        assert count == 1, f"{FILE} has {count} tables marked {mark}"
    return text


@cache
def described() -> dict[str, tuple[Described, ...]]:
    """Service to its metrics. Nothing is loaded and nothing listens."""
    return {service: _of_component(service) for service in ("encoder", "llm", "decoder")} | {
        "orchestrator": _of_orchestrator()
    }


def _of_component(service: str) -> tuple[Described, ...]:
    from tests.services.components import assemble_decoder, assemble_encoder, assemble_llm

    assemble = {"encoder": assemble_encoder, "llm": assemble_llm, "decoder": assemble_decoder}[service]
    config = OWN[service](checkpoint=CHECKPOINT / service, device="cpu")  # type: ignore[call-arg]
    process, _ = assemble(config, "replica")  # type: ignore[operator]
    return _with_server(config, process._metrics)


def _of_orchestrator() -> tuple[Described, ...]:
    from services.orchestrator.__main__ import assemble
    from services.orchestrator.backends import Backends
    from services.orchestrator.discovery.names import Names

    config, metrics = OrchestratorConfig(), Metrics("orchestrator")
    _, embedder = assemble(config, Backends(Names({}), 1000, 2**20), metrics)
    embedder.close()
    return _with_server(config, metrics)


def _with_server(config: ServingConfig, metrics: Metrics) -> tuple[Described, ...]:
    def add_nothing(server: grpc.aio.Server) -> None:
        pass

    GrpcServer(config, add_nothing, [], metrics=metrics)
    return tuple(metrics.described)


def _settings() -> str:
    lines = []
    for title, cls in {**SHARED, **OWN}.items():
        inherited = {name for parent in cls.__mro__[1:] for name in getattr(parent, "model_fields", {})}
        rows = [_setting(title, name, field) for name, field in cls.model_fields.items() if name not in inherited]
        lines += [f"\n{title}:\n", "| flag | variable | default | what |", "| - | - | - | - |", *rows]
    return "\n".join([*lines, "", ""])


def _setting(title: str, name: str, field: FieldInfo) -> str:
    prefix = title.upper() if title in OWN else "<SERVICE>"
    choices = " or ".join(get_args(field.annotation)) if get_origin(field.annotation) is Literal else ""
    bounds = ", ".join(filter(None, [choices, *map(_bound, field.metadata)]))
    what = f"{field.description} ({bounds})" if bounds else str(field.description)
    default = "required" if field.is_required() else f"`{_plain(field.default)}`"
    return f"| `--{name.replace('_', '-')}` | `{prefix}_{name.upper()}` | {default} | {what.replace('|', '/')} |"


def _plain(default: object) -> str:
    if default is None:
        return "none"
    return "none" if default == () else str(default)


def _bound(rule: object) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return ", ".join(f"{word} {getattr(rule, key)}" for key, word in words.items() if hasattr(rule, key))


def _metrics() -> str:
    owners: dict[Described, list[str]] = {}
    for service, metrics in described().items():
        for metric in metrics:
            owners.setdefault(metric, []).append(service)
    rows = [
        f"| `{_name(metric, services)}` | {metric.kind} | {', '.join(metric.labels)} | {', '.join(services)} "
        f"| {metric.text} |"
        for metric, services in owners.items()
    ]
    return "\n".join(["", "| name | kind | labels | services | what |", "| - | - | - | - | - |", *rows, "", ""])


def _name(metric: Described, services: list[str]) -> str:
    return f"triptych_{services[0] if len(services) == 1 else '<service>'}_{metric.name}"


if __name__ == "__main__":
    FILE.write_text(written(FILE.read_text(encoding="utf-8")), encoding="utf-8")
