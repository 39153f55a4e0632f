"""The report of quality as one page of HTML, with pictures in it; nothing is loaded from elsewhere."""

from html import escape
from typing import Any

from greenlang_iot.cli.quality_words import figure_text, headline, site_name, skew_text
from greenlang_iot.quality.figures import FIGURES

WIDTH, HEIGHT = 320, 90
"""Of a picture, in pixels."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0 2rem; } caption { text-align: left; font-weight: bold; }
td, th { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ccc; }
td:first-child, th:first-child { text-align: left; } .missed { color: #a40000; font-weight: bold; }
.trends { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; }
polyline { fill: none; stroke: #0b6e4f; stroke-width: 2; } .frame { fill: none; stroke: #bbb; }
"""


def page(document: dict[str, Any]) -> str:
    """The report (`quality.collect`) as a page."""
    trends = "".join(_trend(figure, document["trend"]) for figure in FIGURES)
    parts = [f"<p>{escape(headline(document))}</p>", f'<div class="trends">{trends}</div>']
    if document["fleet"] is not None:
        parts.append(_table("Fleet", [("all", document["fleet"])]))
    parts.append(_table("Sites", [(site_name(row), row) for row in document["sites"]]))
    devices = [(row["device"], row) for row in document["devices"]]
    parts.append(_table("Devices, the worst first", devices))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Data quality</title>'
        f"<style>{_STYLE}</style><h1>Data quality</h1>{''.join(parts)}</html>\n"
    )


def _trend(figure: str, rows: list[dict[str, Any]]) -> str:
    """A line over the trend; its lower edge is the least value, rounded down to 10 %."""
    points = [(row["ts"], row[figure]) for row in rows if row[figure] is not None]
    if not points:
        return f"<figure><figcaption>{figure}: nothing known</figcaption></figure>"
    low = int(min(value for _, value in points) * 10) / 10 if points else 0.0
    low = min(low, 0.9)
    first, last = points[0][0], points[-1][0]
    span = max(last - first, 1)
    places = " ".join(
        f"{(ts - first) / span * WIDTH:.1f},{(1 - value) / (1 - low) * HEIGHT:.1f}"
        for ts, value in points
    )
    return (
        f"<figure><figcaption>{figure}: {points[-1][1]:.2%} ({low:.0%} to 100 %)</figcaption>"
        f'<svg width="{WIDTH}" height="{HEIGHT + 4}" viewBox="0 -2 {WIDTH} {HEIGHT + 4}" role="img" '
        f'aria-label="{figure} over time"><rect class="frame" width="{WIDTH}" height="{HEIGHT}"/>'
        f'<polyline points="{places}"/></svg></figure>'
    )


def _table(title: str, rows: list[tuple[str, dict[str, Any]]]) -> str:
    heads = "".join(f"<th>{name}</th>" for name in ("", *FIGURES, "skew", "readings"))
    body = "".join(_row(name, row) for name, row in rows)
    return f"<table><caption>{title}</caption><tr>{heads}</tr>{body}</table>"


def _row(name: str, row: dict[str, Any]) -> str:
    cells = [f"<td>{escape(name)}</td>"]
    for figure in FIGURES:
        kind = ' class="missed"' if figure in row["below"] else ""
        cells.append(f"<td{kind}>{figure_text(row, figure)}</td>")
    cells.append(f"<td>{skew_text(row)}</td><td>{row['received']:,}</td>")
    return f"<tr>{''.join(cells)}</tr>"
