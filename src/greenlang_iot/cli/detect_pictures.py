"""Pictures of a replay: PNG by matplotlib, or one page of HTML that zooms and loads nothing."""

import datetime as dt
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greenlang_iot.model.errors import InputError
from greenlang_iot.model.flags import DETECTOR_NAMES, LEARNING, SUSPECT, TOLD

if TYPE_CHECKING:
    from greenlang_iot.runtime.detect_replay import Replay

Named = Sequence[tuple[str, "Replay"]]
"""(label, replay); one, or two of the same series."""

SERIES, BAND, ALERT, MARK, MUTED = "#1f5f8b", "#9ec9e2", "#c2410c", "#7a1f1f", "#6b7280"
DECIMATED = 40_000
"""More points than a PNG can show: runs of them are drawn as their extremes."""


def write(path: Path, title: str, replays: Named) -> None:
    """Write the picture whose kind the file's name says. Raises InputError."""
    kinds = {".png": _png, ".html": _html, ".htm": _html}
    make = kinds.get(path.suffix.lower())
    if make is None:
        raise InputError(f"{path}: a picture's name ends in .png or .html.")
    try:
        make(path, title, replays)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


# ---- PNG --------------------------------------------------------------------------------------------


def _png(path: Path, title: str, replays: Named) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "PNG pictures need matplotlib: pip install 'greenlang-iot[pictures]'; HTML needs nothing."
        ) from None
    figure = Figure(figsize=(13, 4.6 + 1.9 * len(replays)), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    heights = [3.0] + [1.0] * len(replays)
    axes = figure.subplots(1 + len(replays), 1, sharex=True, height_ratios=heights)
    figure.suptitle(_heading(title, replays), x=0.01, ha="left", fontsize=12)
    _draw_series(axes[0], replays)
    for axis, (name, replay) in zip(axes[1:], replays, strict=True):
        _draw_scores(axis, name, replay)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.01)
    locator = AutoDateLocator(tz=dt.UTC)  # type: ignore[no-untyped-call]
    axes[-1].xaxis.set_major_locator(locator)
    concise = ConciseDateFormatter(locator, tz=dt.UTC)  # type: ignore[no-untyped-call]
    axes[-1].xaxis.set_major_formatter(concise)
    figure.savefig(path, format="png")


def _draw_series(axis: Any, replays: Named) -> None:
    replay = replays[0][1]
    when = _moments(replay.ts_ns)
    thin = _thinned(replay.value)
    low, high = _limits(replay)
    known = np.isfinite(replay.expected) & np.isfinite(replay.band)
    if known.any():
        bottom, top = replay.expected - replay.band, replay.expected + replay.band
        axis.fill_between(
            when[thin],
            np.clip(bottom[thin], low, high),
            np.clip(top[thin], low, high),
            where=known[thin],
            color=BAND,
            alpha=0.45,
            linewidth=0,
            label="expected ± band",
        )
    axis.plot(when[thin], replay.value[thin], color=SERIES, linewidth=0.8, label="reading")
    learning = (replay.verdict & LEARNING) != 0
    if learning.any():
        last = int(np.flatnonzero(learning)[-1])
        axis.axvspan(when[0], when[last], color=MUTED, alpha=0.15, linewidth=0, label="learning")
    for (name, other), colour, marker in zip(replays, (ALERT, MARK), ("o", "x"), strict=False):
        told = (other.verdict & SUSPECT) != 0
        first = told & ((other.verdict & TOLD) == 0)
        label = f"suspect{f' ({name})' if name else ''}"
        axis.plot(
            when[told & ~first], other.value[told & ~first], ".", color=colour, ms=2, alpha=0.5
        )
        axis.plot(when[first], other.value[first], marker, color=colour, ms=6, label=label)
        for i, episode in enumerate(other.episodes):
            begin = _moments(np.array([episode.opening.opened_ns], np.int64))[0]
            ns = episode.resolved_ns or int(other.ts_ns[-1])
            end = _moments(np.array([ns], np.int64))[0]
            axis.axvspan(
                begin,
                end,
                color=colour,
                alpha=0.12,
                linewidth=0,
                label="" if i else _of("alert", name),
            )
    axis.set_ylim(low, high)
    axis.set_ylabel("value")
    axis.legend(loc="upper left", ncols=8, fontsize=8, frameon=False, bbox_to_anchor=(0, 1.08))


def _draw_scores(axis: Any, name: str, replay: "Replay") -> None:
    when = _moments(replay.ts_ns)
    thin = _thinned(replay.score)
    axis.plot(when[thin], replay.score[thin], color=SERIES, linewidth=0.8)
    axis.axhline(replay.threshold, color=ALERT, linewidth=1, linestyle="--")
    axis.annotate(
        f"threshold {replay.threshold:g}",
        (0.995, replay.threshold),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=8,
        color=ALERT,
    )
    suspect = (replay.verdict & SUSPECT) != 0
    told = suspect & ((replay.verdict & TOLD) != 0)
    if told.any():
        label = "told already (below the threshold)"
        axis.plot(when[told], replay.score[told], ".", ms=2, color=MUTED, label=label)
    for number, word in enumerate(DETECTOR_NAMES):
        mine = suspect & ~told & (replay.detector == number)
        if mine.any():
            axis.plot(when[mine], replay.score[mine], ".", ms=5, label=word)
    if suspect.any():
        axis.legend(loc="upper left", ncols=6, fontsize=8, frameon=False)
    axis.set_ylim(0, max(1.3 * replay.threshold, 1.15 * float(replay.score.max(initial=0.0))))
    axis.set_ylabel(_of("score", name) + "\n(−log10 share)", fontsize=8)


def _limits(replay: "Replay") -> tuple[float, float]:
    """Of the value's axis: all readings, and the bands where they are not much wider."""
    low, high = float(replay.value.min()), float(replay.value.max())
    room = (high - low) or abs(high) * 0.05 or 1.0
    known = np.isfinite(replay.expected) & np.isfinite(replay.band)
    if known.any():
        bottom = float(np.quantile((replay.expected - replay.band)[known], 0.02))
        top = float(np.quantile((replay.expected + replay.band)[known], 0.98))
        low = min(low, max(bottom, low - 0.5 * room))
        high = max(high, min(top, high + 0.5 * room))
    margin = 0.05 * (high - low)
    return low - margin, high + margin


def _moments(ts_ns: Any) -> Any:
    return np.asarray(ts_ns).astype("datetime64[ns]")


def _thinned(column: Any) -> Any:
    """Rows to draw: all, or of every run of rows the least and the greatest."""
    n = len(column)
    if n <= DECIMATED:
        return np.arange(n)
    width = -(-2 * n // DECIMATED)
    starts = np.arange(0, n, width)
    picked = [
        start + np.array([part.argmin(), part.argmax()])
        for start in starts
        for part in (column[start : start + width],)
    ]
    return np.unique(np.concatenate([*picked, [0, n - 1]]))


def _of(what: str, name: str) -> str:
    return f"{what} {name}".rstrip()


def _heading(title: str, replays: Named) -> str:
    parts = []
    for name, replay in replays:
        figures = replay.figures()
        head = f"{name}: " if name else ""
        parts.append(
            f"{head}profile {figures['profile']}, threshold {figures['threshold']:g}, "
            f"alerts {figures['alerts']}, suspect readings {figures['suspect']:,}"
        )
    return "\n".join([f"{title} · {len(replays[0][1].ts_ns):,} readings", *parts])


# ---- HTML -------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 90rem; padding: 0 1rem; color: #1f2933; }
h1 { font-size: 1.2rem; margin: 0 0 .3rem; } p { margin: .2rem 0 1rem; color: #52606d; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .25rem .8rem; text-align: left;
border-bottom: 1px solid #d9e2ec; } tr[data-at] { cursor: pointer; } tr[data-at]:hover, tr:focus { background: #eef4f8; }
.u-legend { font-size: 13px; text-align: left; } button { font: inherit; margin-left: .5rem; }
"""


def _html(path: Path, title: str, replays: Named) -> None:
    vendor = files("greenlang_iot.console") / "static" / "vendor"
    script, style = ((vendor / name).read_text() for name in ("uplot.js", "uplot.css"))
    page = files("greenlang_iot.cli").joinpath("detect_page.js").read_text()
    rows = "".join(_row(name, episode) for name, replay in replays for episode in replay.episodes)
    table = f"<table><tr><th></th><th>opened</th><th>until</th><th>rule</th><th>why</th></tr>{rows}</table>"
    document = json.dumps(_data(replays), allow_nan=False).replace("<", "\\u003c")
    path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{style}{_STYLE}</style>"
        f"<h1>{html.escape(_heading(title, replays)).replace(chr(10), '<br>')}</h1>"
        "<p>Drag to zoom; double click, or <button id=all>all of it</button>. "
        "A click on an alert shows it.</p>"
        f'<div id="pictures"></div>{table if rows else "<p>No alerts.</p>"}'
        f"<script>{script}</script>"
        f'<script id="data" type="application/json">{document}</script>'
        f"<script>{page}</script></html>\n",
        encoding="utf-8",
    )


def _data(replays: Named) -> dict[str, Any]:
    """Columns for uPlot, in the order of time; null where nothing is known."""
    first = replays[0][1]
    order = np.argsort(first.ts_ns, kind="stable")
    low, high = _limits(first)
    expected = first.expected.astype(np.float64)
    return {
        "t": (first.ts_ns[order] / 1e9).tolist(),
        "value": first.value[order].tolist(),
        "low": _column(np.clip(expected - first.band, low, high)[order]),
        "high": _column(np.clip(expected + first.band, low, high)[order]),
        "y": [low, high],
        "replays": [
            {
                "name": name,
                "score": np.round(replay.score.astype(np.float64), 4)[order].tolist(),
                "suspect": ((replay.verdict & SUSPECT) != 0)[order].astype(int).tolist(),
                "detector": [DETECTOR_NAMES[d] for d in replay.detector[order].tolist()],
                "threshold": replay.threshold,
                "alerts": [
                    [e.opening.opened_ns / 1e9, (e.resolved_ns or int(replay.ts_ns.max())) / 1e9]
                    for e in replay.episodes
                ],
            }
            for name, replay in replays
        ],
    }


def _column(column: Any) -> list[float | None]:
    return [x if np.isfinite(x) else None for x in column.tolist()]


def _row(name: str, episode: Any) -> str:
    t, end = episode.opening, episode.resolved_ns
    cells = (name, _clock(t.opened_ns), _clock(end) if end else "the end", t.rule, t.summary)
    at = f'data-at="{t.opened_ns / 1e9:.3f}" data-end="{(end or t.opened_ns) / 1e9:.3f}" tabindex="0"'
    return f"<tr {at}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"


def _clock(ns: int) -> str:
    return f"{dt.datetime.fromtimestamp(ns / 1e9, dt.UTC):%Y-%m-%d %H:%M:%S}"
