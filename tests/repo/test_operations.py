"""docs/operations.md says what the code says; dashboards and alerts ask only for what is measured."""

import json
import re
from pathlib import Path

import grpc
import pytest
import yaml

from tests.repo.operations import FILE, ROOT, described, written
from triptych.status import _BY_CODE

DASHBOARDS = sorted((ROOT / "helm" / "triptych" / "dashboards").glob("*.json"))
ALERTS = ROOT / "helm" / "triptych" / "alerts.yaml"
NAME = re.compile(r"\b((?:triptych|process)_\w+)(\{[^}]*\})?")
SCRAPED = {"instance", "job", "namespace", "le"}  # labels that Prometheus and histograms bring
COMPONENTS = ("encoder", "llm", "decoder")


@pytest.fixture(scope="module")
async def known() -> dict[str, set[str]]:
    """Every name one can ask for, with its labels."""
    names = {
        f"triptych_{service}_{metric.name}{suffix}": set(metric.labels)
        for service, metrics in described().items()
        for metric in metrics
        for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
    }
    return names | {name: set() for name in ("process_resident_memory_bytes", "process_cpu_seconds_total")}


def expressions(path: Path) -> list[str]:
    """With each component in the place of the variable."""
    if path == ALERTS:
        rules = [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
        return [rule["expr"] for rule in rules]
    board = json.loads(path.read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    asked += [entry["query"].removeprefix("label_values(") for entry in board["templating"]["list"] if "query" in entry]
    return [text.replace("${component}", component) for text in asked for component in COMPONENTS]


def mistakes(expression: str, known: dict[str, set[str]]) -> list[str]:
    found = NAME.findall(expression)
    wrong = [name for name, _ in found if name not in known]
    labels = SCRAPED.union(*(known.get(name, set()) for name, _ in found))
    asked = [label for by in re.findall(r"\bby \(([^)]*)\)", expression) for label in by.split(", ")]
    asked += [label for _, selector in found for label in re.findall(r"(\w+)\s*[=!]", selector)]
    return wrong + [label for label in asked if label not in labels]


@pytest.mark.parametrize("path", [*DASHBOARDS, ALERTS], ids=lambda path: path.name)
async def test_only_what_is_measured_is_asked_for(path: Path, known: dict[str, set[str]]) -> None:
    asked = expressions(path)
    assert sum(bool(NAME.search(expression)) for expression in asked) >= 5
    assert [wrong for expression in asked for wrong in mistakes(expression, known)] == []


async def test_the_check_finds_mistakes(known: dict[str, set[str]]) -> None:
    assert mistakes("sum(triptych_llm_no_such)", known) == ["triptych_llm_no_such"]
    assert mistakes('sum by (tribe) (triptych_llm_calls_total{cod="OK"})', known) == ["tribe", "cod"]


async def test_names_carry_units_and_help() -> None:
    for metrics in described().values():
        for metric in metrics:
            assert metric.text
            assert metric.kind != "counter" or metric.name.endswith("_total")
            assert metric.kind != "histogram" or metric.name.endswith(("_ms", "_images"))


async def test_every_setting_and_metric_is_listed_as_it_is() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert text == written(text), "python -m tests.repo.operations writes the tables anew"


def test_every_status_says_what_to_do() -> None:
    listed = set(re.findall(r"^\| `([A-Z_]+)` \|", FILE.read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == {*_BY_CODE, "INTERNAL"}
    assert listed <= {code.name for code in grpc.StatusCode}


def test_alerts_are_of_one_release() -> None:
    """Its orchestrators are scraped as one job: what another release has must not hide what this one lacks."""
    aggregated = [re.findall(r"\b(?:sum|min|max)\b(?: by \(([^)]*)\))?", text) for text in expressions(ALERTS)]
    assert all(aggregated)
    assert [labels for found in aggregated for labels in found if not labels.startswith("namespace, job")] == []


def test_every_alert_is_explained() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    text = FILE.read_text(encoding="utf-8")
    assert [rule["alert"] for rule in rules if f"`{rule['alert']}`" not in text] == []
