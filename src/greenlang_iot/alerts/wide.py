"""Alerts of what is wider than a series: a broker, the clock, the quality of a site or device.

Somebody else decides that a condition holds (`stand`) or not any more (`fall`); here it becomes one alert.
"""

from typing import NamedTuple

from greenlang_iot.alerts.episode import CERTAIN, Episode, Scope, Seen, begin, change
from greenlang_iot.model.outcomes import Transition

NOWHERE: Scope = ("", "", "", "")


class Standing(NamedTuple):
    """A condition that holds. detector: what of the scope is meant."""

    rule: str
    scope: Scope
    detector: str
    at_ns: int
    summary: str
    severity: str
    value: float | None = None
    expected: float | None = None


class WideAlerts:
    """At most one open alert per rule, scope and detector, and `max_active` in all.

    suppressed: openings refused because of that bound.
    """

    def __init__(self, max_active: int) -> None:
        self.suppressed = 0
        self._max_active = max_active
        self._alerts: dict[tuple[str, Scope, str], Episode] = {}

    def stand(self, condition: Standing) -> list[Transition]:
        """The condition holds: open its alert, if it is not open."""
        key = (condition.rule, condition.scope, condition.detector)
        if key in self._alerts:
            return []
        if len(self._alerts) >= self._max_active:
            self.suppressed += 1
            return []
        c = condition
        seen = Seen(c.at_ns, c.value, c.expected, None, CERTAIN, c.detector, c.severity, c.summary)
        alert = self._alerts[key] = begin(c.rule, c.scope, seen)
        return [change(alert, "open", seen, c.at_ns)]

    def fall(
        self, rule: str, scope: Scope, detector: str, at_ns: int, summary: str
    ) -> list[Transition]:
        """The condition does not hold: resolve its alert, if there is one."""
        alert = self._alerts.pop((rule, scope, detector), None)
        if alert is None:
            return []
        seen = Seen(at_ns, None, None, None, 0.0, detector, alert.severity, summary)
        return [change(alert, "resolved", seen, at_ns)]

    def open(self, rule: str) -> list[tuple[Scope, str]]:
        """(scope, detector) of the open alerts of a rule."""
        return [(scope, detector) for of, scope, detector in self._alerts if of == rule]

    def keep(self, alert: Episode) -> None:
        """Take over an alert that was opened before a restart."""
        self._alerts[(alert.rule, alert.scope, alert.detector)] = alert
