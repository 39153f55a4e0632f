"""Results of ladders as tables and pictures."""

from pathlib import Path
from typing import Any

from greenlang_iot.bench.results import read
from greenlang_iot.model.errors import InputError

COST = {
    "cpu_ns_per_message": "CPU ns/message",
    "ratio": "× orjson.loads",
    "ratio_paired": "× its own bursts",
    "messages_per_s": "messages/s",
    "rss_mb": "RSS MB",
    "ready_s": "ready after s",
    "spread": "spread of the unit",
    "verified": "verified",
}
LATENCY = {
    "messages_per_s": "messages/s",
    "p50": "p50 ms",
    "p99": "p99 ms",
    "p99.9": "p99.9 ms",
    "p50 beside": "p50 ms beside stalls",
    "p99 beside": "p99 ms beside stalls",
    "stalled": "machine stalled, share of the time",
    "cpu_ns_per_message": "CPU ns/message",
}


def report(folder: Path) -> list[Path]:
    """report.md and a picture for each; returns what was written. Raises InputError."""
    documents = [read(path) for path in sorted(folder.glob("*.json"))]
    if not documents:
        raise InputError(f"no results in {folder}: bench ladder NAME --results {folder}")
    text = "# Results of the bench\n\n" + "\n".join(_table(document) for document in documents)
    path = folder / "report.md"
    path.write_text(text)
    return [path, *(_picture(folder, document) for document in documents)]


def _columns(document: dict[str, Any]) -> dict[str, str]:
    return LATENCY if "p99" in document["rows"][0] else COST


def _table(document: dict[str, Any]) -> str:
    columns, known = _columns(document), document["environment"]
    lines = [
        f"## {document['name']}",
        "",
        f"{known['cpu']}, {known['cores']} cores, load {known['load_average']} at the end, Python "
        f"{known['python']}, commit {known.get('commit')}, {known['measured_at']}.",
        "",
        "| | " + " | ".join(columns.values()) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for row in document["rows"]:
        cells = " | ".join(_cell(row.get(key)) for key in columns)
        lines.append(f"| {row['name']} | {cells} |")
    lines += ["", *(f"- {sentence}" for sentence in document["wrong"]), ""]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else ""


def _picture(folder: Path, document: dict[str, Any]) -> Path:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("pictures need matplotlib: the extra `pictures`") from error
    rows = document["rows"]
    key = "p99" if "p99" in rows[0] else "ratio"
    figure = Figure(figsize=(8, 0.4 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.barh([row["name"] for row in rows], [row[key] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel({"p99": "p99, ms", "ratio": "CPU a message, × one orjson.loads"}[key])
    path = folder / f"{document['name']}.png"
    figure.savefig(path)
    return path
