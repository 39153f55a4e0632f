"""Alert transitions → line protocol, one line each (measurement `alerts`)."""

import math
import zlib

from greenlang_iot.encode.escapes import line_head
from greenlang_iot.model.outcomes import Transition

MEASUREMENT = "alerts"
APART = 1_000_000
"""ns within which transitions of one time stay apart: InfluxDB keeps one point for each time and tags."""


def alert_line(transition: Transition) -> bytes:
    """One line without its newline; its time is that of the transition (`at`, ns) and less than APART more, by
    the transition's id.

    Tags: device, metric, org, rule, severity, site, state. Fields: alert_id, at, band, by, comment, detector,
    expected, flags, group, labels, members_total, number, opened, runbook, score, summary, value. What does
    not apply is left out.
    """
    t = transition
    tags = {
        "org": t.org,
        "site": t.site,
        "device": t.device,
        "metric": t.metric,
        "rule": t.rule,
        "severity": t.severity,
        "state": t.state,
    }
    fields = {
        "alert_id": _text(t.alert_id),
        "at": f"{t.at_ns}i",
        "band": _number(t.band),
        "by": _text(t.by),
        "comment": _text(t.comment),
        "detector": _text(t.detector),
        "expected": _number(t.expected),
        "flags": _text(",".join(t.flags)),
        "group": _text(t.group),
        "labels": _text(",".join(f"{k}={v}" for k, v in sorted(t.labels.items()))),
        "members_total": f"{t.members_total}i" if t.members_total else "",
        "number": f"{t.number}i",
        "opened": f"{t.opened_ns}i",
        "runbook": _text(t.runbook),
        "score": _number(t.score),
        "summary": _text(t.summary),
        "value": _number(t.value),
    }
    written = ",".join(f"{key}={value}" for key, value in fields.items() if value)
    time_ns = t.at_ns + zlib.crc32(f"{t.alert_id}-{t.number}".encode()) % APART
    return line_head(MEASUREMENT, tags) + f"{written} {time_ns}".encode()


def _text(text: str) -> str:
    """A string field; "" for an empty one. A line break would end the line: it becomes a space."""
    if not text:
        return ""
    one_line = " ".join(text.splitlines())
    return '"' + one_line.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _number(value: float | None) -> str:
    """A float field; "" for none, and for what line protocol has no word for (NaN, infinity)."""
    return "" if value is None or not math.isfinite(value) else repr(float(value))
