"""Figures of quality in words, for the terminal and the page alike."""

import datetime as dt
from typing import Any


def headline(document: dict[str, Any]) -> str:
    """What the figures are about, in a sentence."""
    to = dt.datetime.fromtimestamp(document["to"] / 1e9, dt.UTC)
    return (
        f"Quality of the {document['seconds'] / 60:.3g} min to {to:%Y-%m-%d %H:%M:%S} UTC; "
        f"{document['devices_below']:,} of {document['devices_in_all']:,} devices miss a target (!)"
    )


def site_name(row: dict[str, Any]) -> str:
    """org/site: two organisations may have sites of one name."""
    return f"{row['org']}/{row['site']}"


def figure_text(row: dict[str, Any], figure: str) -> str:
    """`99.2 %`, with `!` where the target is missed; `–` where nothing is known."""
    if row[figure] is None:
        return "–"
    return f"{row[figure]:.1%}{' !' if figure in row['below'] else ''}"


def skew_text(row: dict[str, Any]) -> str:
    """How far a clock is ahead."""
    return "–" if row["skew"] is None else f"{round(row['skew'], 1) + 0.0:+.1f} s"
