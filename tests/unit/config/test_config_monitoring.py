"""What Prometheus and Grafana are given: it names what the gateway exports, and links to what is written."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from greenlang_iot.observe.catalog import CATALOG

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "config"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((CONFIG / "prometheus" / "rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
DASHBOARDS = sorted((CONFIG / "grafana").glob("greenlang-iot-*.json"))


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", CONFIG / "grafana" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exported() -> set[str]:
    """Every series name of /metrics."""
    names = {m.exported for m in CATALOG if m.kind != "histogram"}
    for metric in CATALOG:
        if metric.kind == "histogram":
            names |= {f"{metric.exported}_{part}" for part in ("bucket", "sum", "count")}
    return names


def expressions() -> list[str]:
    found = [rule["expr"] for rule in RULES]
    for path in DASHBOARDS:
        panels = json.loads(path.read_text())["panels"]
        found += [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return found


def test_the_dashboards_are_those_of_their_source() -> None:
    made = generator().dashboards()
    assert {path.name: path.read_text() for path in DASHBOARDS} == made, (
        "run: .venv/bin/python config/grafana/generate.py"
    )
    assert {name.removesuffix(".json").removeprefix("greenlang-iot-") for name in made} == {
        "overview",
        "shard",
        "sinks",
        "fleet",
        "detection",
        "quality",
    }


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_do_not_overlap(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(path.read_text())["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        assert columns.stop <= 24, panel["title"]
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_expressions_name_what_is_exported_or_recorded() -> None:
    for expression in expressions():
        bare = re.sub(r"\{[^}]*\}", "", expression)
        names = set(re.findall(r"\bgreenlang_iot[a-z0-9_:]+", bare))
        assert names <= exported() | RECORDED, expression
        assert names or "up" in bare, expression


def test_every_recorded_series_is_used() -> None:
    text = " ".join(expressions())
    for name in RECORDED:
        assert name in text, name


def test_labels_and_buckets_exist() -> None:
    """A value asked for by = is one that the catalogue has, `le` one of the buckets."""
    metrics = {m.exported: m for m in CATALOG}
    for expression in expressions():
        for name, inner in re.findall(r"\b(greenlang_iot_[a-z_]+)\{([^}]*)\}", expression):
            metric = metrics.get(name) or metrics[re.sub(r"_(bucket|sum|count)$", "", name)]
            labels = dict(metric.labels)
            for label, value in re.findall(r'(\w+)="([^"]*)"', inner):
                if label == "le":
                    assert float(value) in metric.buckets, expression
                elif label not in ("job", "instance", "shard"):
                    assert value in labels[label], expression


def sections() -> set[str]:
    heads = re.findall(r"^## (.+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.M)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    annotations = rule["annotations"]
    assert annotations["summary"]
    assert annotations["description"]
    page, _, section = annotations["runbook_url"].partition("#")
    assert page == "docs/runbooks.md"
    assert section in sections()
    for comparison in rule["expr"].split(" and "):
        assert re.fullmatch(r".+ [<>] [0-9.]+", comparison), "one comparison with a number"


def test_every_runbook_belongs_to_an_alert() -> None:
    linked = {rule["annotations"]["runbook_url"].partition("#")[2] for rule in ALERTS}
    assert sections() == linked


def test_every_alert_is_seen_to_fire_in_the_rule_tests() -> None:
    document = yaml.safe_load((ROOT / "tests" / "promtool" / "rules_test.yaml").read_text())
    fired = {
        match
        for test in document["tests"]
        for case in test.get("promql_expr_test", [])
        for sample in case["exp_samples"]
        for match in re.findall(r'alertname="(\w+)"', sample.get("labels", ""))
    }
    assert fired == {rule["alert"] for rule in ALERTS}


def test_grafana_finds_its_dashboards_and_its_data() -> None:
    folder = CONFIG / "grafana" / "provisioning"
    provider = yaml.safe_load((folder / "dashboards" / "greenlang-iot.yaml").read_text())
    assert provider["providers"][0]["type"] == "file"
    source = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())
    assert source["datasources"][0]["type"] == "prometheus"
    scrape = yaml.safe_load((CONFIG / "prometheus" / "prometheus.yaml").read_text())
    interval = scrape["global"]["scrape_interval"]
    assert source["datasources"][0]["jsonData"]["timeInterval"] == interval
    assert [job["job_name"] for job in scrape["scrape_configs"]] == ["greenlang-iot"]
