"""The chart is well-formed: Helm lints it, Kubernetes' schemas know every object, wrong values are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest

from tests.helm.charts import CHART, DIGEST, EXAMPLES, Object, of_kind, render, values_of
from tests.helm.conftest import ALL
from tests.helm.settings import setting_schemas
from triptych import __version__

VERSIONS = ("1.35", "1.36", "1.37")
CUSTOM = {"ServiceMonitor", "ScaledObject"}  # not Kubernetes' own


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
def test_kubernetes_knows_every_object(distinct: list[Object], version: str) -> None:
    assert len(distinct) > 50
    for found in distinct:
        assert kubernetes_validate.validate(found, version, strict=True) == version


@pytest.mark.parametrize("release", ["a", "r" * 53])
def test_names_fit(release: str) -> None:
    """Of objects and label values: 63 characters, also for the longest name Helm takes."""
    objects = render(values_of("everything"), release=release)
    assert all(len(name) <= 63 for _, name in objects)
    assert len(objects) == len(render(values_of("everything")))


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
    ],
    ids=json.dumps,
)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError):
        render(values)


@pytest.mark.parametrize("service", setting_schemas())
def test_settings_are_those_of_the_service(service: str) -> None:
    """A setting that is added, renamed or bounded otherwise is so in the schema, too."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert schema["$defs"][f"{service}Config"]["properties"] == setting_schemas()[service]
    assert schema["$defs"][f"{service}Config"]["additionalProperties"] is False


def test_dashboards(tmp_path: Path) -> None:
    """Each file is a ConfigMap, as it is: Grafana's own braces are left alone."""
    chart = tmp_path / "triptych"
    shutil.copytree(CHART, chart)
    (chart / "dashboards").mkdir(exist_ok=True)
    text = '{"title": "Serving", "legend": "{{pod}}"}\n'
    (chart / "dashboards" / "serving.json").write_text(text, encoding="utf-8")
    maps = {found["metadata"]["name"]: found for found in of_kind(render({}, chart), "ConfigMap")}
    found = maps["triptych-dashboard-serving"]
    assert found["data"] == {"serving.json": text}
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert of_kind(render({"monitoring": {"dashboards": {"enabled": False}}}, chart), "ConfigMap") == []
