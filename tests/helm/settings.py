"""The settings of each process as the chart's schema has them: derived from the classes that read them."""

from typing import Any, Final

from pydantic_settings import BaseSettings

from services.decoder.config import DecoderConfig
from services.encoder.config import EncoderConfig
from services.llm.config import LlmConfig
from services.orchestrator.config import OrchestratorConfig
from services.trainer.jobs.settings import JobSettings

CONFIGS: Final[dict[str, type[BaseSettings]]] = {
    "encoder": EncoderConfig,
    "llm": LlmConfig,
    "decoder": DecoderConfig,
    "orchestrator": OrchestratorConfig,
    "trainer": JobSettings,
}
# Where a pod listens and what it mounts is not for the values to say.
OF_THE_CHART: Final = {"host", "port", "metrics_port", "address_file", "checkpoint"}
KEPT: Final = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "description")


def setting_schemas() -> dict[str, dict[str, Any]]:
    """Service -> setting -> JSON schema."""
    return {service: _settings(config) for service, config in CONFIGS.items()}


def _settings(config: type[BaseSettings]) -> dict[str, Any]:
    fields = config.model_json_schema()["properties"]
    return {name: _shape(field) for name, field in fields.items() if name not in OF_THE_CHART}


def _shape(field: dict[str, Any]) -> dict[str, Any]:
    """An optional value is given or left away: null means the latter to Helm."""
    given = next((kind for kind in field.get("anyOf", ()) if kind["type"] != "null"), {})
    shape = {key: value for key, value in {**given, **field}.items() if key in KEPT}
    if shape["type"] == "array":
        shape["items"] = {"type": "string"}
    return shape
