"""The chart is well-formed: Helm lints it, Kubernetes' schemas know every object, wrong values are refused."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from tests.helm.charts import CHART, DIGEST, EXAMPLES, Object, files_of, objects_of, of_kind, render, values_of
from tests.helm.conftest import ALL
from tests.helm.settings import SCHEMA, schema_text
from triptych import __version__

VERSIONS = ("1.35", "1.36", "1.37")
CUSTOM = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "Certificate", "Issuer"}  # not Kubernetes' own


def test_examples() -> None:
    assert set(EXAMPLES) == {"one-gpu", "cpu-laptop", "production", "two-decoders"}


@pytest.mark.parametrize("name", ALL)
def test_lint(name: str) -> None:
    report = helm_python.lint(CHART, values_of(name))
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@pytest.fixture(scope="module")
def distinct() -> list[Object]:
    """Every object of every set of values, once."""
    found = (made for name in ALL for made in render(values_of(name)).values() if made["kind"] not in CUSTOM)
    return [json.loads(text) for text in sorted({json.dumps(made, sort_keys=True) for made in found})]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_object(distinct: list[Object], version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "schema_contents", cache(utils.schema_contents))  # a megabyte for each object otherwise
    assert len(distinct) > 50
    for found in distinct:
        assert kubernetes_validate.validate(found, version, strict=True) == version


@pytest.mark.parametrize("release", ["a", "r" * 53])
def test_names_fit(release: str) -> None:
    """Of objects and label values: 63 characters, also for the longest name Helm takes."""
    objects = render(values_of("everything"), release=release)
    assert all(len(name) <= 63 for _, name in objects)
    assert len(objects) == len(render(values_of("everything")))
    revisions = [f"{name}-{'f' * 10}" for kind, name in objects if kind == "StatefulSet"]  # a label of its pods
    assert revisions
    assert all(len(revision) <= 63 for revision in revisions)


def test_the_chart_is_for_this_version() -> None:
    with helm_python.Chart.load(CHART) as chart:
        assert chart.metadata["appVersion"] == __version__


@pytest.mark.parametrize(
    "values",
    [
        {"lllm": {}},
        {"llm": {"replica": 2}},
        {"llm": {"config": {"max_num_sequences": 4}}},
        {"llm": {"config": {"max_num_seqs": 0}}},
        {"llm": {"config": {"max_num_requests": 4}}},  # the decoder's
        {"defaults": {"config": {"max_num_seqs": 4}}},
        {"llm": {"config": {"port": 1}}},
        {"llm": {"rollout": {"maxUnavailable": 1}}},
        {"llm": {"rollout": {"maxSurge": 0}}},
        {"llm": {"checkpoint": {"source": "nfs"}}},
        {"llm": {"checkpoint": {"source": "fetch", "fetch": {"url": "https://example/llm.tar"}}}},  # no digest
        {"llm": {"checkpoint": {"source": "fetch", "digest": DIGEST, "fetch": {"url": "ftp://example/llm.tar"}}}},
        {"llm": {"checkpoint": {"source": "image"}}},  # which?
        {"more": {"other": {"config": {}}}},  # of which service?
        {"more": {"llm": {"service": "llm"}}},  # the name is taken
        {"more": {"other": {"service": "decoder", "config": {"max_num_seqs": 4}}}},
        {"ingress": {"enabled": True}},
        {"trainer": {"config": {"lease": 4}}},
        {"llm": {"config": {"insecure": True}}},  # `tls` says so, for all
        {"llm": {"config": {"tls_require_client_cert": False}}},
        {"llm": {"config": {"traces": "jaeger:14250"}}},
        {"tls": {"enable": True}},
        {"tls": {"certManager": {"duration": "90 days"}}},
        {"more": {"ca": {"service": "llm"}}},
        {"more": {"trainer-default": {"service": "llm"}}},  # as a worker's Deployment
        {"trainer": {"enabled": True, "workers": [{"name": "a", "queue": q, "replicas": 1} for q in ("a", "b")]}},
        {"llm": {"autoscaling": {"enabled": True, "minReplicas": 5}}},  # more than maxReplicas
        {"defaults": {"disruptionBudget": {"maxUnavailable": "0%"}}},  # no node could be drained
    ],
    ids=json.dumps,
)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError):
        render(values)


def test_settings_are_those_of_the_services() -> None:
    """A setting that is added, renamed or bounded otherwise is so in the schema, too."""
    assert schema_text() == SCHEMA.read_text(encoding="utf-8"), "python -m tests.helm.settings writes it anew"
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    configs = [shape for name, shape in schema["$defs"].items() if name.endswith("Config")]
    assert [shape["additionalProperties"] for shape in configs] == [False] * 5


def test_dashboards(tmp_path: Path) -> None:
    """Each file is a ConfigMap, as it is: Grafana's own braces are left alone."""
    maps = of_kind(render({}), "ConfigMap")
    held = {name: text for found in maps for name, text in found["data"].items()}
    assert held == {path.name: path.read_text(encoding="utf-8") for path in (CHART / "dashboards").iterdir()}
    assert any("{{" in text for text in held.values())
    assert {found["metadata"]["labels"]["grafana_dashboard"] for found in maps} == {"1"}
    assert of_kind(render({"monitoring": {"dashboards": {"enabled": False}}}), "ConfigMap") == []
    chart = tmp_path / "triptych"
    shutil.copytree(CHART, chart)
    (chart / "dashboards" / "serving.json").write_text('{"legend": "{{pod}}"}\n', encoding="utf-8")
    assert objects_of(chart, {})["ConfigMap", "triptych-dashboard-serving"]["data"] == {
        "serving.json": '{"legend": "{{pod}}"}\n'
    }


def test_alerts() -> None:
    """The rules of alerts.yaml, as they are; tests/repo/test_operations.py asks whether their metrics exist."""
    (rule,) = of_kind(render({"monitoring": {"alerts": {"enabled": True, "labels": {"a": "b"}}}}), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((CHART / "alerts.yaml").read_text(encoding="utf-8"))
    assert rule["metadata"]["labels"]["a"] == "b"
    assert of_kind(render({}), "PrometheusRule") == []


@pytest.mark.parametrize("name", ALL)
def test_notes_say_what_is_open(name: str) -> None:
    values = values_of(name)
    (notes,) = (text for path, text in files_of(CHART, values).items() if path.endswith("NOTES.txt"))
    assert "port-forward service/triptych-orchestrator 50050" in notes
    assert ("NOT encrypted" in notes) is (not values.get("tls", {}).get("enabled"))
    assert ("no API key" in notes) is (not values.get("keys"))
    # Certificates are for `localhost`, not for 127.0.0.1.
    assert ("status --address localhost:50050" in notes) is ("NOT encrypted" not in notes)
