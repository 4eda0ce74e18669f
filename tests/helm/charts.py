"""The chart as the Helm engine renders it."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import helm_python
import yaml

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "helm" / "triptych"
EXAMPLES: Final = {path.stem: path for path in sorted((ROOT / "helm" / "examples").glob("*.yaml"))}
DIGEST: Final = f"sha256:{'0' * 64}"
# Whatever the chart can do beside its defaults, at once.
EVERYTHING: Final[dict[str, Any]] = {
    "imagePullSecrets": [{"name": "registry"}],
    "tls": {"enabled": True, "certManager": {"orchestratorNames": ["triptych.example"]}},
    "keys": {"secretName": "triptych-keys"},
    "defaults": {
        "autoscaling": {"enabled": True},
        "runtimeClassName": "nvidia",
        "priorityClassName": "high",
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"operator": "Exists"}],
        "podAnnotations": {"a": "b"},
        "env": [{"name": "OMP_NUM_THREADS", "value": "2"}],
        "config": {"traces": "otlp://collector.monitoring:4317"},
    },
    "encoder": {"checkpoint": {"source": "image", "image": {"reference": "encoder:1"}}},
    "llm": {"checkpoint": {"source": "fetch", "digest": DIGEST, "fetch": {"url": "hf://a/b@c/llm"}}},
    "decoder": {
        "gpu": {"count": 1},
        "autoscaling": {"kind": "keda"},
        "checkpoint": {"source": "fetch", "digest": DIGEST, "fetch": {"url": "s3://b/decoder", "secretName": "s3"}},
    },
    "more": {"decoder-next": {"service": "decoder", "checkpoint": {"digest": DIGEST}}},
    "trainer": {"enabled": True},
    "ingress": {"enabled": True, "host": "triptych.example", "tlsSecretName": "tls"},
    "orchestrator": {
        "headless": True,
        "discovery": "endpointslices",
        "config": {
            "jwt_jwks": "https://login.example:8443/keys",
            "jwt_issuer": "https://login.example",
            "jwt_audience": "triptych",
        },
    },
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "alerts": {"enabled": True, "labels": {"release": "prometheus"}},
    },
}
Object = dict[str, Any]
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has it


def values_of(name: str) -> dict[str, Any]:
    """Of an example, of "defaults", or of "everything"."""
    if name in EXAMPLES:
        return dict(yaml.safe_load(EXAMPLES[name].read_text(encoding="utf-8")))
    return copy.deepcopy(EVERYTHING) if name == "everything" else {}


def render(values: dict[str, Any], release: str = "triptych") -> dict[tuple[str, str], Object]:
    """Kind and name to object; each set of values is rendered once. Raises HelmError for values that the schema or a
    template refuses."""
    return copy.deepcopy(_rendered(json.dumps(values), release))


@cache
def _rendered(values: str, release: str) -> dict[tuple[str, str], Object]:
    return objects_of(CHART, json.loads(values), release)


def objects_of(chart: Path, values: dict[str, Any], release: str = "triptych") -> dict[tuple[str, str], Object]:
    """As `render`, of another chart."""
    objects: dict[tuple[str, str], Object] = {}
    for path, text in files_of(chart, values, release).items():
        if path.endswith(".yaml"):
            for found in filter(None, yaml.load_all(text, Loader=LOADER)):
                key = found["kind"], found["metadata"]["name"]
                assert key not in objects, key
                objects[key] = found
    return objects


def files_of(chart: Path, values: dict[str, Any], release: str = "triptych") -> dict[str, str]:
    """Path to text, as Helm renders it."""
    with helm_python.Chart.load(chart) as loaded:
        return dict(loaded.render(values, name=release, namespace="serving"))


def of_kind(objects: dict[tuple[str, str], Object], *kinds: str) -> list[Object]:
    return [found for (kind, _), found in objects.items() if kind in kinds]


def workloads(objects: dict[tuple[str, str], Object]) -> list[Object]:
    return of_kind(objects, "Deployment", "StatefulSet")


def pod(workload: Object) -> Object:
    """Its pods' spec."""
    return dict(workload["spec"]["template"]["spec"])


def pod_labels(workload: Object) -> dict[str, str]:
    return dict(workload["spec"]["template"]["metadata"]["labels"])


def service_of(workload: Object) -> str:
    """Of a serving component, or "trainer" or "redis": the name of its one container."""
    return str(pod(workload)["containers"][0]["name"])


def selects(selector: Object, labels: dict[str, str]) -> bool:
    return set(selector["matchLabels"].items()) <= set(labels.items())
