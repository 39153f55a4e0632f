"""Alert transitions as lines for a person or a program, and which of them are wanted. No I/O."""

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any

import orjson
from rich.text import Text

from greenlang_iot.model.severity import SEVERITIES
from greenlang_iot.observe.printable import printable

_STATE_STYLES = {
    "pending": "dim",
    "open": "bold",
    "acknowledged": "cyan",
    "resolved": "green",
}
_SEVERITY_STYLES = {"info": "blue", "warning": "yellow", "critical": "bold red"}


@dataclass(slots=True, frozen=True)
class Wanted:
    """Which alerts to show; None: all. `severity` is the least severity shown."""

    site: str | None = None
    device: str | None = None
    severity: str | None = None

    def __contains__(self, alert: dict[str, Any]) -> bool:
        return (
            self.site in (None, alert.get("site"))
            and self.device in (None, alert.get("device"))
            and _rank(alert.get("severity")) >= _rank(self.severity)
        )


def _rank(severity: object) -> int:
    """Place in SEVERITIES; what is not known there ranks highest, so that it is never hidden."""
    if severity is None:
        return 0
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)


def parse(body: bytes) -> dict[str, Any] | None:
    """The transition in a message; None if it is none."""
    try:
        alert = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return alert if isinstance(alert, dict) and "alert_id" in alert else None


def json_line(alert: dict[str, Any]) -> str:
    """One line of JSON in ASCII: nothing in it can act on a terminal."""
    return json.dumps(alert, separators=(",", ":")).replace("\x7f", "\\u007f")


def line(alert: dict[str, Any]) -> Text:
    """One line for a person: when, state, severity, where, what, how bad, in words."""
    state, severity = _word(alert, "state"), _word(alert, "severity")
    place = "/".join(_word(alert, key) or "_" for key in ("org", "site", "device"))
    metric = _word(alert, "metric")
    return Text.assemble(
        (moment(alert.get("at")), "dim"),
        "  ",
        (f"{state:<12}", _STATE_STYLES.get(state, "")),
        "  ",
        (f"{severity:<8}", _SEVERITY_STYLES.get(severity, "")),
        "  ",
        (f"{place}{' ' if metric else ''}{metric:<12}", ""),
        "  ",
        (f"{_word(alert, 'rule'):<8}", "magenta"),
        (f"  {_flags(alert)}".rstrip(), "yellow"),
        f"  {_measured(alert)}".rstrip(),
        (f"  {_word(alert, 'summary')}".rstrip(), "dim"),
    )


def _word(alert: dict[str, Any], key: str) -> str:
    value = alert.get(key)
    return "" if value is None else printable(str(value))


def _flags(alert: dict[str, Any]) -> str:
    """`[silenced flapping]`, or nothing."""
    flags = alert.get("flags")
    return f"[{printable(' '.join(map(str, flags)))}]" if isinstance(flags, list) and flags else ""


def _measured(alert: dict[str, Any]) -> str:
    """`41.5 (20 ± 1.2) score 0.999`: what is known of it."""
    value, expected, band, score = (
        _number(alert.get(key)) for key in ("value", "expected", "band", "score")
    )
    words = []
    if value:
        words.append(value)
    if expected:
        words.append(f"({expected} ± {band})" if band else f"({expected})")
    if score not in ("", "1"):  # 1 is a limit or a silence: nothing was judged
        words.append(f"score {score}")
    return " ".join(words)


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else ""


def moment(ns: object) -> str:
    """Event time in UTC, to the millisecond."""
    if not isinstance(ns, int):
        return "-"
    try:
        moment = dt.datetime.fromtimestamp(ns / 1e9, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{ns // 1_000_000 % 1000:03d}Z"
