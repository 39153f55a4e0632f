"""From suspect readings to alerts that a person wants to see: one per episode.

A series has at most four alerts at a time, one per kind: value (rules spike, shift, rate, context, swing, river:
what the value does), stuck, range, silence.

    pending ──(open_after suspects, pending_for event time)──▶ open ──(normal readings)──▶ resolved

An alert resolves after `resolve_after` normal readings in a row (`resolve_spike_after` while it
rests on single readings; silence: at the first reading), and does not open again within `cooldown`.
An open spike that lasts becomes a shift: one more transition, the same alert. What was told lately opens none, but for
a shift that does not come every day, and what is much farther off than what was before: a spike must not hide what stays, nor a larger one.

What is of the time of an alert of its series and kind that is over belongs to that alert: it begins none.
A shard that drains a session of an earlier layout hears devices that another shard looks after. It tells what it
sees *aside*: each such alert has an id of its own and ends as soon as it has opened, for nobody would end it later.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from greenlang_iot.alerts import words
from greenlang_iot.alerts.engine import RuleEngine
from greenlang_iot.alerts.episode import (
    ASIDE,
    CERTAIN,
    FOREVER,
    Ended,
    Ends,
    Episode,
    Scope,
    Seen,
    begin,
    change,
    restored,
    scope_in,
    scope_of,
    series_of,
)
from greenlang_iot.alerts.matching import Bools
from greenlang_iot.alerts.rule_file import NO_RULES, RESERVED, RuleSet
from greenlang_iot.alerts.wide import NOWHERE, Standing, WideAlerts
from greenlang_iot.model.batches import I32, I64, U8, ReadingBatch, Reject, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.flags import (
    DETECTOR_NAMES,
    DETECTOR_RANGE,
    DETECTOR_SILENCE,
    DETECTOR_STUCK,
    FARTHER,
    HABIT,
    NOT_LEARNT,
    RETAINED,
    SUSPECT,
    TOLD,
)
from greenlang_iot.model.outcomes import Silences, Transition
from greenlang_iot.model.reasons import Reason
from greenlang_iot.settings.model import AlertSettings

VALUE, STUCK, RANGE, SILENCE = 1, 2, 4, 8
"""Kinds of alerts of a series, as bits of `Alerter.active`."""
TOUCHED = 128
"""Only within `evaluate`: a suspect row of this batch belongs to the series."""
KINDS = (VALUE, STUCK, RANGE, SILENCE)
KIND_OF = {
    DETECTOR_NAMES[DETECTOR_STUCK]: STUCK,
    DETECTOR_NAMES[DETECTOR_RANGE]: RANGE,
    DETECTOR_NAMES[DETECTOR_SILENCE]: SILENCE,
}

Document: TypeAlias = dict[str, Any]

LASTING = ("shift", "context", "swing")
"""Rules of VALUE that rest on many readings: a drift's score comes near the threshold for some readings and goes on."""

CRITICAL_SCORE = 12.0
"""A spike or shift is critical from this score (−log10) on."""


class Alerter:
    """Rules over scored batches. Pure: returns transitions, delivers nothing.

    active: per series the kinds (bits) that have an alert; the normal path only looks at it.
    suppressed: openings refused because `max_active` alerts are not resolved.
    mine: per device, does this shard look after it; None: after all. Devices behind its end are ours, too.
    """

    def __init__(
        self, directory: Directory, settings: AlertSettings, rules: RuleSet = NO_RULES
    ) -> None:
        self.settings = settings
        self._mine: Bools | None = None
        self._engine = RuleEngine(rules, directory, settings)
        self.active: U8 = np.zeros(directory.n_series, np.uint8)
        self.suppressed = 0
        self._directory = directory
        self._alerts: dict[tuple[int, int], Episode] = {}
        self._ends: Ends[tuple[int, int]] = Ends()
        self._wide = WideAlerts(settings.max_active)

    @property
    def mine(self) -> Bools | None:
        return self._mine

    @mine.setter
    def mine(self, mine: Bools | None) -> None:
        self._mine = self._engine.mine = mine

    def evaluate(self, batch: ReadingBatch, scores: ScoreBatch) -> list[Transition]:
        """Look at rows that are suspect or whose series has an alert."""
        result: list[Transition] = []
        for row in self._rows(batch.series[: batch.n], scores.verdict[: batch.n]):
            self._row(batch, scores, row, result)
        return result + self._engine.evaluate(batch, scores)

    def _rows(self, series: I32, verdict: U8) -> list[int]:
        """Rows to look at: a series that gets an alert in this batch is followed through all of it."""
        active = self.active.take(series)
        if np.bitwise_or.reduce(verdict, initial=0) & SUSPECT:
            touched = series[(verdict & SUSPECT) != 0]
            self.active[touched] |= TOUCHED
            active = self.active.take(series)
            self.active[touched] &= ~TOUCHED & 0xFF
        if not np.count_nonzero(active):
            return []
        rows: list[int] = np.flatnonzero(active).tolist()
        return rows

    def evaluate_rejects(self, rejects: list[Reject]) -> list[Transition]:
        """Readings outside their valid range never reach a sink, but a person should know."""
        result: list[Transition] = []
        for reject in rejects:
            entries = zip(reject.paths, reject.series, reject.values, reject.ts_ns, strict=False)
            for (_, reason), series, value, ts_ns in entries:
                if reason == Reason.OUT_OF_RANGE and series >= 0 and ts_ns > 0:
                    low, high = self._directory.low[series], self._directory.high[series]
                    middle, half = float(low + high) / 2, float(high - low) / 2
                    summary = words.rejected(self._directory, series, value)
                    seen = Seen(ts_ns, value, middle, half, CERTAIN, "range", "critical", summary)
                    self._suspect(series, RANGE, seen, result)
        return result

    def evaluate_silence(self, silences: Silences, now_ns: int) -> list[Transition]:
        """Open alerts for series that fell silent; `now_ns` dates those that never spoke."""
        result: list[Transition] = []
        fresh = np.flatnonzero((self.active[silences.series] & SILENCE) == 0)
        for i in fresh.tolist():
            series, never = int(silences.series[i]), bool(silences.never[i])
            overdue = int(silences.overdue_ns[i])
            interval = int(self._directory.interval_ns[series])
            due = now_ns - overdue if never else int(silences.last_seen_ns[i]) + interval
            summary = words.silent(self._directory, series, overdue + interval, never)
            seen = Seen(due, None, None, None, CERTAIN, "silence", "warning", summary)
            self._suspect(series, SILENCE, seen, result, at_ns=due + overdue)
        return result

    def outage(
        self, scope: str, is_open: bool, at_ns: int, summary: str, rule: str = "outage"
    ) -> list[Transition]:
        """Open or resolve the one alert of something wider than a device.

        scope names it ("gateway", "broker:default"); rule is "outage" or "clock".
        """
        if not is_open:
            return self._wide.fall(rule, NOWHERE, scope, at_ns, summary)
        severity = "critical" if rule == "outage" else "warning"
        return self._wide.stand(Standing(rule, NOWHERE, scope, at_ns, summary, severity))

    def restore(
        self,
        open_alerts: Sequence[Document],
        ended: Sequence[Ended] = (),
        elsewhere: Sequence[Document] = (),
    ) -> list[Transition]:
        """Take over what the outboxes say is not resolved (last `Transition.as_dict` of each).

        ended: alerts that are over. elsewhere: alerts not resolved that another shard takes over.
        Returns the resolutions of alerts whose series the registry does not have any more.
        """
        result: list[Transition] = []
        told = [*open_alerts, *elsewhere, *(item.last for item in ended)]
        scopes = {scope_in(t) for t in told if t["rule"] in RESERVED and t["device"]}
        index = series_of(self._directory, scopes)
        for saved in open_alerts:
            if saved["rule"] not in RESERVED:
                continue
            alert = restored(saved)
            if not saved["device"]:
                self._wide.keep(alert)
                continue
            series = index.get(alert.scope)
            if series is None:
                result.append(_unwatched(alert))
                continue
            self._keep(series, _kind(saved), alert)
        for item in sorted(ended, key=lambda item: int(item.last["at"])):
            until = item.last["at"] + int(self.settings.cooldown * 1e9) * item.was_open
            self._over(index, item.last, until)
        for last in elsewhere:  # what is heard here of their time belongs to them
            self._over(index, last, FOREVER)
        own = [t for t in open_alerts if t["rule"] not in RESERVED]
        return result + self._engine.restore(own, ended, elsewhere)

    def _over(self, index: dict[Scope, int], last: Document, until: int) -> None:
        series = index.get(scope_in(last))
        if series is None or last["rule"] not in RESERVED:
            return
        if ASIDE not in last["flags"] or not self._is_mine(series):
            most = self.settings.max_active
            self._ends.note((series, _kind(last)), restored(last), until, most)

    def grow(self, directory: Directory) -> list[Transition]:
        """Go on with a newer Directory; alerts move with their series, and those of series that it
        does not watch are resolved."""
        old = self._alerts
        self._directory = directory
        self._alerts = {}
        self._ends.keep(lambda key: key[0] < directory.n_series)
        self.active = np.zeros(directory.n_series, np.uint8)
        result: list[Transition] = []
        moved: dict[Scope, int] | None = None
        for (series, kind), alert in old.items():
            if series >= directory.n_series or scope_of(directory, series) != alert.scope:
                if moved is None:
                    moved = series_of(directory, {alert.scope for alert in old.values()})
                series = moved.get(alert.scope, -1)
            if series >= 0 and self._on(series):
                self._keep(series, kind, alert)
            elif not alert.aside:
                result.append(_unwatched(alert))
        return result + self._engine.grow(directory)

    def configure(self, settings: AlertSettings, rules: RuleSet) -> list[Transition]:
        """Go on with reloaded settings and rules; alerts of rules that are gone are resolved."""
        self.settings = self._engine.settings = settings
        return self._engine.grow(self._directory, rules)

    def evaluate_quiet(
        self, quiet_ns: I64, last_ns: I64, watched: Bools | None = None
    ) -> list[Transition]:
        """Silence by a person's own rules; see `RuleEngine.evaluate_quiet`."""
        return self._engine.evaluate_quiet(quiet_ns, last_ns, watched)

    @property
    def asks_for_quiet(self) -> bool:
        """Whether some rule is about silence."""
        return self._engine.asks_for_quiet

    def _row(
        self, batch: ReadingBatch, scores: ScoreBatch, row: int, result: list[Transition]
    ) -> None:
        flags = int(batch.flags[row])
        if flags & RETAINED:
            return
        series, ts_ns = int(batch.series[row]), int(batch.ts_ns[row])
        value = float(batch.value[row])
        here = int(self.active[series])
        if here & SILENCE:
            self._resolve(series, SILENCE, ts_ns, value, result)
        if flags & NOT_LEARNT:
            return
        kind = 0
        if scores.verdict[row] & SUSPECT:
            seen = self._read(batch, scores, row)
            kind = KIND_OF.get(seen.detector, VALUE)
            if kind != VALUE or here & VALUE or _is_news(int(scores.verdict[row]), seen.detector):
                self._suspect(series, kind, seen, result)
        for other in KINDS[:3]:
            if here & other and other != kind:
                self._normal(series, other, ts_ns, value, result)

    def _read(self, batch: ReadingBatch, scores: ScoreBatch, row: int) -> Seen:
        """A suspect row in words."""
        rule = DETECTOR_NAMES[scores.detector[row]]
        value, score = float(batch.value[row]), float(scores.score[row])
        expected, band = float(scores.expected[row]), float(scores.band[row])
        severity = "info" if rule == "river" else "warning"
        if rule in ("spike", "shift") and score >= CRITICAL_SCORE:
            severity = "critical"
        series = int(batch.series[row])
        summary = words.reading(self._directory, series, rule, value, expected, band)
        ts_ns = int(batch.ts_ns[row])
        return Seen(ts_ns, value, expected, band, score, rule, severity, summary)

    def _suspect(
        self,
        series: int,
        kind: int,
        seen: Seen,
        result: list[Transition],
        at_ns: int | None = None,
    ) -> None:
        """A suspect reading (or silence) of this kind: open, extend, or nothing."""
        at = seen.ts_ns if at_ns is None else at_ns
        alert = self._alerts.get((series, kind))
        if alert is None:
            alert = self._begun(series, kind, seen, at)
            if alert is None:
                return
            self._keep(series, kind, alert)
        elif seen.ts_ns <= alert.last_ns:
            if kind == RANGE and seen.ts_ns < alert.opened_ns:
                self._earlier(series, alert.opened_ns, seen, result)
            return  # a retry, or late: it tells nothing new
        alert.last_ns = seen.ts_ns
        alert.suspects += 1
        alert.normal = 0
        if alert.state == "pending":
            needed = self.settings.open_after if kind == VALUE else 1
            held = (
                kind == SILENCE or (seen.ts_ns - alert.opened_ns) / 1e9 >= self.settings.pending_for
            )
            if alert.suspects >= needed and held:
                result.append(change(alert, "open", seen, at))
                if alert.aside:
                    self._resolve(series, kind, at, seen.value, result)
            elif alert.suspects == 1 and not alert.aside:
                result.append(change(alert, "pending", seen, at))
        elif seen.detector == "shift" != alert.detector:
            alert.detector = "shift"
            result.append(change(alert, alert.state, seen, at))

    def _begun(self, series: int, kind: int, seen: Seen, at_ns: int) -> Episode | None:
        """A new alert, not told of yet; None where the reading belongs to one that is over, or too many are open."""
        aside = not self._is_mine(series)
        if self._ends.covers((series, kind), at_ns, aside=aside):
            return None
        if len(self._alerts) >= self.settings.max_active:
            self.suppressed += 1
            return None
        alert = begin(seen.detector, scope_of(self._directory, series), seen, aside=aside)
        alert.number = self._ends.number(alert.alert_id)
        if alert.number and kind != SILENCE:
            return None  # the reading that opened an alert which is over comes again
        alert.type = self._type(series)
        return alert

    def _earlier(self, series: int, until_ns: int, seen: Seen, result: list[Transition]) -> None:
        """Out of range before the alert that is open began, and heard after that: an alert of its own, over where
        that one begins. One for all that is as late; none where an alert needs time to open (`pending_for`)."""
        alert = None if self.settings.pending_for else self._begun(series, RANGE, seen, seen.ts_ns)
        if alert is None:
            return
        summary = words.earlier(alert.scope[3], alert.scope[2])
        over = Seen(until_ns, None, None, None, 0.0, seen.detector, seen.severity, summary)
        result.append(change(alert, "open", seen, seen.ts_ns))
        result.append(change(alert, "resolved", over, until_ns))
        self._ends.note((series, RANGE), alert, until_ns, self.settings.max_active)

    def _normal(
        self, series: int, kind: int, ts_ns: int, value: float, result: list[Transition]
    ) -> None:
        alert = self._alerts[(series, kind)]
        if ts_ns <= alert.last_ns:
            return  # it came again, or late: what was before does not say that it is over
        alert.normal += 1
        single = kind == VALUE and alert.detector not in LASTING
        settings = self.settings
        needed = settings.resolve_spike_after if single else settings.resolve_after
        if alert.normal >= needed:
            self._resolve(series, kind, ts_ns, value, result)

    def _resolve(
        self, series: int, kind: int, ts_ns: int, value: float | None, result: list[Transition]
    ) -> None:
        alert = self._alerts.pop((series, kind))
        self.active[series] &= ~kind & 0xFF
        was_open = alert.state != "pending"
        if was_open or not alert.aside:
            summary = words.resolved(self._directory, series, alert.rule, value)
            if alert.aside:
                summary = words.aside(alert.scope[3], alert.scope[2])
            seen = Seen(ts_ns, value, None, None, 0.0, alert.detector, alert.severity, summary)
            result.append(change(alert, "resolved", seen, ts_ns))
        until = ts_ns + (int(self.settings.cooldown * 1e9) if was_open else 0)
        self._ends.note((series, kind), alert, until, self.settings.max_active)

    def _keep(self, series: int, kind: int, alert: Episode) -> None:
        self._alerts[(series, kind)] = alert
        self.active[series] |= kind

    def _is_mine(self, series: int) -> bool:
        device = int(self._directory.series_device[series])
        return self._mine is None or device >= len(self._mine) or bool(self._mine[device])

    def _type(self, series: int) -> str:
        d = self._directory
        return d.type[int(d.type_of[d.series_device[series]])]

    def _on(self, series: int) -> bool:
        d = self._directory
        return bool(d.series_enabled[series] and d.enabled[d.series_device[series]])


def _is_news(verdict: int, detector: str) -> bool:
    """Whether a suspect value opens an alert where none is."""
    if not verdict & TOLD or verdict & FARTHER:
        return True
    return detector == "shift" and not verdict & HABIT


def _kind(document: Document) -> int:
    return KIND_OF.get(document["rule"], VALUE)


def _unwatched(alert: Episode) -> Transition:
    summary = words.unwatched(alert.scope[3], alert.scope[2])
    seen = Seen(alert.last_ns, None, None, None, 0.0, alert.detector, alert.severity, summary)
    return change(alert, "resolved", seen, alert.last_ns)
