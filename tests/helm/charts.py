"""The chart as the Helm engine renders it."""

import copy
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
    "defaults": {
        "autoscaling": {"enabled": True},
        "runtimeClassName": "nvidia",
        "priorityClassName": "high",
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"operator": "Exists"}],
        "podAnnotations": {"a": "b"},
        "env": [{"name": "OMP_NUM_THREADS", "value": "2"}],
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
    "monitoring": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
}
Object = dict[str, Any]


def values_of(name: str) -> dict[str, Any]:
    """Of an example, of "defaults", or of "everything"."""
    if name in EXAMPLES:
        return dict(yaml.safe_load(EXAMPLES[name].read_text(encoding="utf-8")))
    return copy.deepcopy(EVERYTHING) if name == "everything" else {}


def render(values: dict[str, Any], chart: Path = CHART, release: str = "triptych") -> dict[tuple[str, str], Object]:
    """Kind and name to object. Raises HelmError for values that the schema or a template refuses."""
    with helm_python.Chart.load(chart) as loaded:
        files = loaded.render(values, name=release, namespace="serving")
    objects: dict[tuple[str, str], Object] = {}
    for path, text in files.items():
        if path.endswith(".yaml"):
            for found in filter(None, yaml.safe_load_all(text)):
                key = found["kind"], found["metadata"]["name"]
                assert key not in objects, key
                objects[key] = found
    return objects


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
