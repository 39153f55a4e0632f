"""One alert from its first suspicion to its end, and the transitions in between. Pure."""

import hashlib
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, TypeVar

from greenlang_iot.model.directory import Directory
from greenlang_iot.model.outcomes import Transition

CERTAIN = 12.0
"""Score of what rests on a limit, not on statistics."""
FOREVER: Final = (1 << 63) - 1
ASIDE: Final = "aside"
"""The flag of an alert that a shard told beside the one that looks after the device."""
Key = TypeVar("Key", bound=Hashable)


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
    """aside: of a device that another shard looks after; it ends as soon as it has opened."""

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
    aside: bool = False


class Ended(NamedTuple):
    """An alert that is over. last: its last transition (`Transition.as_dict`). was_open: and not only pending."""

    last: dict[str, Any]
    was_open: bool


class _Over(NamedTuple):
    of: Hashable
    since: int
    until: int
    number: int

    @property
    def elsewhere(self) -> bool:
        """It is not over, but looked after by another shard."""
        return self.until == FOREVER


class Ends(Generic[Key]):
    """Alerts that are over, by what they were of; the oldest go first. Times are event times in ns."""

    def __init__(self) -> None:
        self._over: dict[str, _Over] = {}  # by alert id
        self._of: dict[Key, list[str]] = {}

    def note(self, key: Key, alert: Episode, until: int, most: int) -> None:
        """Nothing opens there from its opening to `until`. most: so many are remembered."""
        self._forget(alert.alert_id)
        self._over[alert.alert_id] = _Over(key, alert.opened_ns, until, alert.number)
        self._of.setdefault(key, []).append(alert.alert_id)
        while len(self._over) > most:
            self._forget(next(iter(self._over)))

    def covers(self, key: Key, at_ns: int, *, aside: bool) -> bool:
        """What came at that time belongs to one of them, or it cools down. aside: or to one that is looked after elsewhere."""
        over = (self._over[alert_id] for alert_id in self._of.get(key, ()))
        return any(o.since <= at_ns < o.until and (aside or not o.elsewhere) for o in over)

    def number(self, alert_id: str) -> int:
        """Of its last transition; 0 where it is not known."""
        over = self._over.get(alert_id)
        return over.number if over is not None else 0

    def keep(self, wanted: Callable[[Key], bool]) -> None:
        """Forget all others."""
        for key in [key for key in self._of if not wanted(key)]:
            for alert_id in list(self._of[key]):
                self._forget(alert_id)

    def _forget(self, alert_id: str) -> None:
        over = self._over.pop(alert_id, None)
        if over is None:
            return
        key: Key = over.of  # type: ignore[assignment]
        self._of[key].remove(alert_id)
        if not self._of[key]:
            del self._of[key]


def begin(rule: str, scope: Scope, seen: Seen, *, aside: bool = False) -> Episode:
    """An alert that `seen` begins; its id is the same whoever computes it.

    Beside the shard that looks after the device another one may tell of the same reading, `aside`: under
    an id of its own, since both number what they say.
    """
    wide = () if scope[3] else (seen.detector,)
    text = "\0".join((rule, *scope, *wide, *((ASIDE,) if aside else ()), str(seen.ts_ns)))
    alert_id = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return Episode(
        alert_id, rule, seen.detector, seen.severity, scope, seen.ts_ns, "pending", aside=aside
    )


def restored(saved: dict[str, Any]) -> Episode:
    """The alert whose last transition (`Transition.as_dict`) this is."""
    return Episode(
        alert_id=saved["alert_id"],
        rule=saved["rule"],
        detector=saved["detector"],
        severity=saved["severity"],
        scope=scope_in(saved),
        opened_ns=saved["opened"],
        state=saved["state"],
        number=saved["number"],
        last_ns=saved["at"],
        suspects=1,
        type=saved.get("type", ""),
        labels=dict(saved.get("labels", {})),
        runbook=saved.get("runbook", ""),
    )


def change(alert: Episode, state: str, seen: Seen, at_ns: int) -> Transition:
    """Put the alert in `state`; the transition, with its next number. at_ns: event time of `seen`."""
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
        flags=(ASIDE,) if alert.aside else (),
        type=alert.type,
        labels=alert.labels,
        runbook=alert.runbook,
    )


def scope_in(document: dict[str, Any]) -> Scope:
    """Of a transition as `Transition.as_dict`: what it is of."""
    return document["org"], document["site"], document["device"], document["metric"]


def scope_of(directory: Directory, series: int) -> Scope:
    """(org, site, device, metric) of a series, by its index."""
    d, device = directory, int(directory.series_device[series])
    return (
        d.org[int(d.org_of[device])],
        d.site[int(d.site_of[device])],
        d.device[device],
        d.metric[int(d.series_metric[series])],
    )


def series_of(directory: Directory, scopes: set[Scope]) -> dict[Scope, int]:
    """Series by scope, of those that the registry has and watches."""
    found: dict[Scope, int] = {}
    d, devices = directory, directory.find(scope[2] for scope in scopes)
    for device in devices.values():
        if d.enabled[device]:
            for series in range(int(d.series_start[device]), int(d.series_start[device + 1])):
                if d.series_enabled[series] and (scope := scope_of(d, series)) in scopes:
                    found[scope] = series
    return found


def _finite(x: float | None) -> float | None:
    return x if x is not None and math.isfinite(x) else None
