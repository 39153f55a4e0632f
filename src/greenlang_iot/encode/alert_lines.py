"""Alert transitions → line protocol, one line each (measurement `alerts`)."""

import math

from greenlang_iot.encode.escapes import line_head
from greenlang_iot.model.outcomes import Transition

MEASUREMENT = "alerts"


def alert_line(transition: Transition) -> bytes:
    """One line without its newline; its time is the event time of the transition (ns).

    Tags: device, metric, org, rule, severity, site, state. Fields: alert_id, band, by, comment, detector,
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
    return line_head(MEASUREMENT, tags) + f"{written} {t.at_ns}".encode()


def _text(text: str) -> str:
    """A string field; "" for an empty one. A line break would end the line: it becomes a space."""
    if not text:
        return ""
    one_line = " ".join(text.splitlines())
    return '"' + one_line.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _number(value: float | None) -> str:
    """A float field; "" for none, and for what line protocol has no word for (NaN, infinity)."""
    return "" if value is None or not math.isfinite(value) else repr(float(value))
