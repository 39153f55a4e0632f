"""One alert from its first suspicion to its end, and the transitions in between. Pure."""

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from greenlang_iot.model.outcomes import Transition

CERTAIN = 12.0
"""Score of what rests on a limit, not on statistics."""


Scope = tuple[str, str, str, str]
"""org, site, device, metric; "" for what does not apply."""


class Seen(NamedTuple):
    """What an alert is about: one reading, or the lack of one."""

    ts_ns: int
    value: float | None
    expected: float | None
    band: float | None
    score: float  # −log10
    detector: str
    severity: str
    summary: str


@dataclass(slots=True)
class Episode:
    alert_id: str
    rule: str
    detector: str
    severity: str
    scope: Scope
    opened_ns: int
    state: str
    number: int = 0
    last_ns: int = 0
    suspects: int = 0
    normal: int = 0  # in a row
    type: str = ""  # of the device
    labels: dict[str, str] = field(default_factory=dict)  # of the rule
    runbook: str = ""


def begin(rule: str, scope: Scope, seen: Seen) -> Episode:
    """An alert that `seen` begins; its id is the same whoever computes it."""
    wide = () if scope[3] else (seen.detector,)
    text = "\0".join((rule, *scope, *wide, str(seen.ts_ns)))
    alert_id = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return Episode(alert_id, rule, seen.detector, seen.severity, scope, seen.ts_ns, "pending")


def restored(saved: dict[str, Any]) -> Episode:
    """The alert whose last transition (`Transition.as_dict`) this is."""
    return Episode(
        alert_id=saved["alert_id"],
        rule=saved["rule"],
        detector=saved["detector"],
        severity=saved["severity"],
        scope=(saved["org"], saved["site"], saved["device"], saved["metric"]),
        opened_ns=saved["opened"],
        state=saved["state"],
        number=saved["number"],
        last_ns=saved["at"],
        suspects=1,
        type=saved.get("type", ""),
    )


def change(alert: Episode, state: str, seen: Seen, at_ns: int) -> Transition:
    alert.state = state
    alert.number += 1
    org, site, device, metric = alert.scope
    return Transition(
        alert_id=alert.alert_id,
        number=alert.number,
        state=state,
        rule=alert.rule,
        severity=alert.severity,
        org=org,
        site=site,
        device=device,
        metric=metric,
        opened_ns=alert.opened_ns,
        at_ns=at_ns,
        value=_finite(seen.value),
        expected=_finite(seen.expected),
        band=_finite(seen.band),
        score=1.0 - 10.0**-seen.score,
        detector=alert.detector,
        summary=seen.summary,
        type=alert.type,
        labels=alert.labels,
        runbook=alert.runbook,
    )


def _finite(x: float | None) -> float | None:
    return x if x is not None and math.isfinite(x) else None
