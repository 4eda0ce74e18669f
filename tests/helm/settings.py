"""The settings of each process as the chart's schema has them: derived from the classes that read them.
`python -m tests.helm.settings` writes them into helm/triptych/values.schema.json.
"""

import json
from pathlib import Path
from typing import Any, Final

from pydantic_settings import BaseSettings

from services.decoder.config import DecoderConfig
from services.encoder.config import EncoderConfig
from services.llm.config import LlmConfig
from services.orchestrator.config import OrchestratorConfig
from services.trainer.jobs.settings import JobSettings
from triptych.serving.config import ServingConfig

SCHEMA: Final = Path(__file__).parents[2] / "helm" / "triptych" / "values.schema.json"
CONFIGS: Final[dict[str, type[BaseSettings]]] = {
    "encoder": EncoderConfig,
    "llm": LlmConfig,
    "decoder": DecoderConfig,
    "orchestrator": OrchestratorConfig,
    "trainer": JobSettings,
}
# Where a pod listens, what it mounts and whom it lets in is for the chart to say, from `tls` and `keys`.
OF_THE_CHART: Final = {"host", "port", "metrics_port", "health_port", "address_file", "checkpoint"} | {
    *("tls_dir", "tls_cert", "tls_key", "tls_ca", "insecure", "components_tls", "keys_file")
}
FOR_USERS: Final = "tls_require_client_cert"  # components' only caller has a certificate
KEPT: Final = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "pattern", "description")
WIDTH: Final = 120


def setting_schemas() -> dict[str, dict[str, Any]]:
    """Service -> setting -> JSON schema."""
    return {service: _settings(config) for service, config in CONFIGS.items()}


def shared_schema() -> dict[str, Any]:
    """Of what every service has."""
    return _settings(ServingConfig)


def _settings(config: type[BaseSettings]) -> dict[str, Any]:
    fields = config.model_json_schema()["properties"]
    not_ours = OF_THE_CHART if config is OrchestratorConfig else OF_THE_CHART | {FOR_USERS}
    return {name: _shape(field) for name, field in fields.items() if name not in not_ours}


def _shape(field: dict[str, Any]) -> dict[str, Any]:
    """An optional value is given or left away: null means the latter to Helm."""
    given = next((kind for kind in field.get("anyOf", ()) if kind["type"] != "null"), {})
    shape = {key: value for key, value in {**given, **field}.items() if key in KEPT}
    if shape["type"] == "array":
        shape["items"] = {"type": "string"}
    return shape


def _written(value: Any, indent: int = 0, taken: int = 0) -> str:
    """JSON with each object on one line where it fits; `taken`: columns of the key before and the comma behind."""
    line = json.dumps(value, ensure_ascii=False)
    if (isinstance(value, dict) and indent == 0) or indent + taken + len(line) > WIDTH:
        inner = " " * (indent + 2)
        if isinstance(value, dict):
            keys = {key: f"{json.dumps(key)}: " for key in value}
            rows = [f"{inner}{keys[k]}{_written(v, indent + 2, len(keys[k]) + 1)}" for k, v in value.items()]
            return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"
        if isinstance(value, list):
            return "[\n" + ",\n".join(f"{inner}{_written(v, indent + 2, 1)}" for v in value) + "\n" + " " * indent + "]"
    return line


def schema_text() -> str:
    """The schema's file with the settings as they are now."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    schema["properties"]["defaults"]["properties"]["config"]["properties"] = shared_schema()
    for service, settings in setting_schemas().items():
        schema["$defs"][f"{service}Config"]["properties"] = settings
    return _written(schema) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
