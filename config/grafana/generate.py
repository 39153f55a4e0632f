"""Writes the dashboards beside this file from dashboards.yaml: `.venv/bin/python config/grafana/generate.py`."""

import json
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
HEIGHT = {"stat": 4}
"""Grid rows of a panel; the others have 8."""


def dashboards() -> dict[str, str]:
    """File name → JSON text of every dashboard."""
    source = yaml.safe_load((HERE / "dashboards.yaml").read_text())
    return {
        f"greenlang-iot-{name}.json": json.dumps(_dashboard(name, item), indent=1) + "\n"
        for name, item in source.items()
    }


def _dashboard(name: str, item: dict[str, Any]) -> dict[str, Any]:
    variables = ["instance", *item.get("variables", [])]
    return {
        "uid": f"greenlang-iot-{name}",
        "title": item["title"],
        "description": item["about"],
        "tags": ["greenlang-iot"],
        "schemaVersion": 38,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [
            {
                "type": "dashboards",
                "tags": ["greenlang-iot"],
                "title": "greenlang-iot",
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": [_datasource(), *(_variable(label) for label in variables)]},
        "panels": _panels(item["rows"], variables),
    }


def _datasource() -> dict[str, Any]:
    return {
        "name": "datasource",
        "type": "datasource",
        "query": "prometheus",
        "label": "Prometheus",
        "current": {},
    }


def _variable(label: str) -> dict[str, Any]:
    """One for all values of a label, all of them chosen at first."""
    metric = "greenlang_iot_sink_up" if label == "sink" else "greenlang_iot_shard_up"
    query = f"label_values({metric}, {label})"
    return {
        "name": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": label},
        "definition": query,
        "refresh": 2,
        "sort": 3,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panels(rows: list[dict[str, Any]], variables: list[str]) -> list[dict[str, Any]]:
    scope = ", ".join(['job="greenlang-iot"', *(f'{label}=~"${label}"' for label in variables)])
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        place = {"h": 1, "w": 24, "x": 0, "y": y}
        panels.append(
            {"type": "row", "id": len(panels) + 1, "title": row["title"], "gridPos": place}
        )
        x, y, height = 0, y + 1, 0
        for panel in row["panels"]:
            if x + panel["width"] > 24:
                x, y, height = 0, y + height, 0
            own = HEIGHT.get(panel.get("kind", "timeseries"), 8)
            height = max(height, own)
            place = {"h": own, "w": panel["width"], "x": x, "y": y}
            panels.append(_panel(panel, len(panels) + 1, place, scope))
            x += panel["width"]
        y += height
    return panels


def _panel(item: dict[str, Any], number: int, place: dict[str, int], scope: str) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": item.get("unit", "short"), "min": 0}
    defaults |= {key: item[key] for key in ("min", "max", "decimals") if key in item}
    return {
        "type": item.get("kind", "timeseries"),
        "id": number,
        "title": item["title"],
        "gridPos": place,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": expression.replace("$scope", scope),
                "legendFormat": legend or item["title"],
            }
            for index, (legend, expression) in enumerate(item["queries"].items())
        ],
    }


if __name__ == "__main__":
    for name, text in dashboards().items():
        (HERE / name).write_text(text)
