"""A person's own rules over scored batches, beside the detectors' alerts in `rules.py`. Pure.

A rule is evaluated over columns, and only over rows of series that it matches; Python looks at single
rows only where a condition holds or something is pending or open:

    pending ──(holds for `for`)──▶ open ──(is over: `clear`, else it does not hold)──▶ resolved ── cooldown

What a rule remembers (the last value, when it changed) is kept per series, as columns, and only if some
rule asks for it. An expression is evaluated when the last reading of a device with one time stamp has come, so
that the metrics of one message are seen together.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from greenlang_iot.alerts import words
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
)
from greenlang_iot.alerts.matching import Bools, Compiled, match_rules, words_of
from greenlang_iot.alerts.rule_file import Rule, RuleSet, Threshold
from greenlang_iot.model.batches import F64, I32, I64, ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.flags import NOT_LEARNT
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.settings.model import AlertSettings

NEVER: Final = np.iinfo(np.int64).min


class _Rows(NamedTuple):
    """Rows that some rule looks at, in the order in which they came."""

    series: I32
    ts: I64
    value: F64
    score: F64  # in [0, 1]; empty where no rule asks for it


class _Found(NamedTuple):
    """What a rule says of rows: does the condition hold, is it over, and the value that it judged."""

    at: I64  # places in _Rows
    holds: Bools
    over: Bools
    measured: F64


class RuleEngine:
    """The rules of one shard. Keys of episodes: (rule, series), or (rule, −1 − device) for expressions.

    suppressed: openings refused because alerts.max_active are not resolved. mine: as the Alerter's.
    """

    def __init__(self, rules: RuleSet, directory: Directory, settings: AlertSettings) -> None:
        self.settings = settings
        self.suppressed = 0
        self._rules = rules
        self._episodes: dict[tuple[str, int], Episode] = {}
        self.mine: Bools | None = None
        self._ends: Ends[tuple[str, int]] = Ends()
        self._watch(directory)

    @property
    def asks_for_quiet(self) -> bool:
        """Whether some rule is about silence."""
        return any(rule.silence is not None for rule in self._rules.rules)

    def evaluate(self, batch: ReadingBatch, scores: ScoreBatch) -> list[Transition]:
        """Rows that are duplicates, late or retained tell a rule nothing."""
        if not self._compiled:
            return []
        at = np.flatnonzero(self._any[batch.series[: batch.n]])
        at = at[(batch.flags[at] & NOT_LEARNT) == 0]
        if not len(at):
            return []
        rows = _Rows(
            batch.series[at],
            batch.ts_ns[at],
            batch.value[at],
            -np.expm1(scores.score[at].astype(np.float64) * -np.log(10.0))
            if self._about_scores
            else np.zeros(0),
        )
        result: list[Transition] = []
        rates, unchanged = self._remember(rows) if self._memory is not None else (None, None)
        for item in self._compiled:
            mine = np.flatnonzero(self._words[item.word()][rows.series] & item.bit())
            if len(mine):
                found = self._judge(item, rows, mine, rates, unchanged)
                self._follow(item, rows, found, result)
        if self._newest is not None:
            self._newest[rows.series] = rows.value
        return result

    def evaluate_quiet(
        self, quiet_ns: I64, last_ns: I64, watched: Bools | None = None
    ) -> list[Transition]:
        """Series that have not spoken for longer than a rule allows.

        Per series: quiet_ns for how long; last_ns event time of its newest reading (≤ 0: none yet).
        watched: devices that count, all if None.
        """
        result: list[Transition] = []
        for item in self._compiled:
            limit = item.rule.silence
            if limit is None:
                continue
            quiet = item.series & (quiet_ns > int(limit * 1e9))
            if watched is not None:
                quiet &= watched[self._directory.series_device]
            for series in np.flatnonzero(quiet).tolist():
                if (item.rule.name, series) not in self._episodes and last_ns[series] > 0:
                    due = int(last_ns[series]) + int(limit * 1e9)
                    now = int(last_ns[series]) + int(quiet_ns[series])
                    self._step(item.rule, series, due, float("nan"), True, False, result, now)
        return result

    def restore(
        self,
        open_alerts: list[dict[str, Any]],
        ended: Sequence[Ended] = (),
        elsewhere: Sequence[dict[str, Any]] = (),
    ) -> list[Transition]:
        """Take over alerts that are not resolved; the ends of those that nothing watches any more.

        ended, elsewhere: as the Alerter's; what is of no rule here is left out.
        """
        cooldown = {rule.name: int(rule.cooldown * 1e9) for rule in self._rules.rules}
        ends = [(t, t["at"] + cooldown.get(t["rule"], 0) * was_open) for t, was_open in ended]
        ends += [(t, FOREVER) for t in elsewhere]
        keys = self._find({_watched(t) for t, _ in ends})
        for t, until in sorted(ends, key=lambda item: item[1]):
            key = keys.get(_watched(t))
            if key is not None and (ASIDE not in t["flags"] or not self._is_mine(key)):
                most = self.settings.max_active
                self._ends.note((t["rule"], key), restored(t), until, most)
        return self._place([restored(saved) for saved in open_alerts])

    def grow(self, directory: Directory, rules: RuleSet | None = None) -> list[Transition]:
        """Go on with another registry, or other rules; what nothing watches any more is resolved.

        Readings that came before are forgotten: rates and expressions begin anew.
        """
        before = list(self._episodes.values())
        if rules is not None:
            self._rules = rules
        self._episodes = {}
        self._watch(directory)
        self._ends.keep(lambda key: self._is_watched(key[1]))
        return self._place(before)

    # ---- which rows ---------------------------------------------------------------------------------

    def _watch(self, directory: Directory) -> None:
        self._directory = directory
        n = directory.n_series if self._rules.rules else 0  # nothing is kept for no rules
        self._compiled = match_rules(self._rules.rules, directory) if n else []
        self._words = words_of(self._compiled, n)
        self._any: Bools = np.bitwise_or.reduce(self._words, axis=0) != 0
        self._active = np.zeros(n, np.int32)  # episodes of a series; of a device at its first one
        kinds = {rule.kind for rule in self._rules.rules}
        self._about_scores = "score" in kinds
        self._memory = _Memory(n) if kinds & {"rate", "stuck"} else None
        self._newest = np.full(n, np.nan) if "expression" in kinds else None

    def _remember(self, rows: _Rows) -> tuple[F64, I64]:
        assert self._memory is not None
        return self._memory.take(rows.series, rows.ts, rows.value)

    def _judge(
        self, item: Compiled, rows: _Rows, mine: I64, rates: F64 | None, unchanged: I64 | None
    ) -> _Found:
        rule = item.rule
        if item.condition is not None:
            return self._calculate(item, rows, mine)
        if rule.silence is not None:  # whoever speaks is not silent
            spoke = np.ones(len(mine), np.bool_)
            return _Found(mine, ~spoke, spoke, rows.value[mine])
        if rule.stuck is not None:
            assert unchanged is not None
            same = unchanged[mine]
            return _Found(mine, same >= int(rule.stuck * 1e9), same == 0, rows.value[mine])
        limit = rule.range or rule.rate or rule.score
        assert limit is not None
        column = rows.value if rule.range else rates if rule.rate else rows.score
        assert column is not None
        measured = column[mine]
        holds, over = _compare(limit, measured)
        return _Found(mine, holds, over, measured)

    def _calculate(self, item: Compiled, rows: _Rows, mine: I64) -> _Found:
        """An expression at the last row of each device and time stamp."""
        assert item.columns is not None
        assert item.devices is not None
        assert item.condition is not None
        assert self._newest is not None
        device = self._directory.series_device[rows.series[mine]]
        order = np.argsort(device, kind="stable")
        at, device = mine[order], device[order]
        series, ts, value = rows.series[at], rows.ts[at], rows.value[at]
        place = np.searchsorted(item.devices, device)
        starts = _starts(device)
        columns: dict[str, F64] = {}
        for metric, of_device in item.columns.items():
            wanted = of_device[place]
            source = np.maximum.accumulate(np.where(series == wanted, np.arange(len(at)), -1))
            in_batch = source >= starts
            columns[metric] = np.where(in_batch, value[source], self._newest[wanted])
        known = np.logical_and.reduce([np.isfinite(column) for column in columns.values()])
        holds = item.condition.holds(columns) & known
        over = ~holds if item.clear is None else item.clear.holds(columns) & known
        ends = np.flatnonzero(np.r_[(device[1:] != device[:-1]) | (ts[1:] != ts[:-1]), True])
        return _Found(at[ends], holds[ends], over[ends], np.full(len(ends), np.nan))

    # ---- single rows --------------------------------------------------------------------------------

    def _follow(self, item: Compiled, rows: _Rows, found: _Found, result: list[Transition]) -> None:
        """Rows where the condition holds, and what comes after them; and rows with an episode."""
        keys = rows.series[found.at]
        if item.condition is not None:
            keys = self._directory.series_device[keys]
            active = self._active[self._directory.series_start[keys]] > 0
        else:
            active = self._active[keys] > 0
        if not (active.any() or found.holds.any()):
            return
        touched = np.isin(keys, keys[found.holds]) | active
        for i in np.flatnonzero(touched).tolist():
            key = int(keys[i]) if item.condition is None else -1 - int(keys[i])
            ts, measured = int(rows.ts[found.at[i]]), float(found.measured[i])
            holds, over = bool(found.holds[i]), bool(found.over[i])
            self._step(item.rule, key, ts, measured, holds, over, result)

    def _step(
        self,
        rule: Rule,
        key: int,
        ts_ns: int,
        measured: float,
        holds: bool,
        over: bool,
        result: list[Transition],
        at_ns: int | None = None,
    ) -> None:
        """at_ns: event time now, where it is not that of a reading."""
        alert = self._episodes.get((rule.name, key))
        if alert is None:
            at = ts_ns if at_ns is None else at_ns
            aside = not self._is_mine(key)
            if not holds or self._ends.covers((rule.name, key), at, aside=aside):
                return
            if len(self._episodes) >= self.settings.max_active:
                self.suppressed += 1
                return
            seen = self._seen(rule, key, ts_ns, measured)
            alert = begin(rule.name, self._scope(key), seen, aside=aside)
            alert.number = self._ends.number(alert.alert_id)
            if alert.number and rule.silence is None:
                return  # the reading that opened an alert which is over comes again
            alert.type, alert.labels, alert.runbook = self._type(key), rule.labels, rule.runbook
            alert.last_ns = ts_ns
            self._keep(key, alert)
            if not rule.for_:
                self._open(rule, key, alert, seen, result)
            elif not alert.aside:
                result.append(change(alert, "pending", seen, ts_ns))
            return
        if ts_ns <= alert.last_ns:
            return  # a retry, or late: it tells nothing new
        alert.last_ns = ts_ns
        if alert.state == "pending":
            if not holds:
                self._resolve(rule, key, ts_ns, measured, result)
            elif ts_ns - alert.opened_ns >= int(rule.for_ * 1e9):
                self._open(rule, key, alert, self._seen(rule, key, ts_ns, measured), result)
        elif over:
            self._resolve(rule, key, ts_ns, measured, result)

    def _open(
        self, rule: Rule, key: int, alert: Episode, seen: Seen, result: list[Transition]
    ) -> None:
        result.append(change(alert, "open", seen, seen.ts_ns))
        if alert.aside:
            self._resolve(rule, key, seen.ts_ns, float("nan"), result)

    def _resolve(
        self, rule: Rule, key: int, ts_ns: int, measured: float, result: list[Transition]
    ) -> None:
        alert = self._episodes.pop((rule.name, key))
        self._active[self._first(key)] -= 1
        was_open = alert.state != "pending"
        if was_open or not alert.aside:
            summary = words.rule_over(rule.name, *alert.scope[2:])
            if alert.aside:
                summary = words.aside(alert.scope[3], alert.scope[2])
            seen = Seen(ts_ns, measured, None, None, 0.0, alert.detector, alert.severity, summary)
            result.append(change(alert, "resolved", seen, ts_ns))
        until = ts_ns + (int(rule.cooldown * 1e9) if was_open else 0)
        self._ends.note((rule.name, key), alert, until, self.settings.max_active)

    def _seen(self, rule: Rule, key: int, ts_ns: int, measured: float) -> Seen:
        _, site, device, metric = self._scope(key)
        unit = "" if key < 0 else words.named(self._directory, key)[2]
        summary = words.rule_holds(rule, site, device, metric, measured, unit)
        return Seen(ts_ns, measured, None, None, CERTAIN, rule.kind, rule.severity, summary)

    def _keep(self, key: int, alert: Episode) -> None:
        self._episodes[alert.rule, key] = alert
        self._active[self._first(key)] += 1

    def _place(self, alerts: list[Episode]) -> list[Transition]:
        """Find the series or device of each alert; the ends of those that have none."""
        ended: list[Transition] = []
        keys = self._find({(alert.rule, alert.scope) for alert in alerts})
        for alert in alerts:
            key = keys.get((alert.rule, alert.scope))
            if key is not None:
                self._keep(key, alert)
                continue
            if alert.aside:
                continue
            summary = words.rule_gone(alert.rule, *alert.scope[2:])
            at = alert.last_ns
            seen = Seen(at, None, None, None, 0.0, alert.detector, alert.severity, summary)
            ended.append(change(alert, "resolved", seen, at))
        return ended

    def _find(self, wanted: set[tuple[str, Scope]]) -> dict[tuple[str, Scope], int]:
        """The key of each (rule, scope), of those that the rule watches."""
        found: dict[tuple[str, Scope], int] = {}
        compiled = {item.rule.name: item for item in self._compiled}
        d = self._directory
        devices = d.find({scope[2] for rule, scope in wanted if rule in compiled})
        for rule, scope in wanted:
            item, device = compiled.get(rule), devices.get(scope[2])
            if item is None or device is None:
                continue
            if item.devices is not None:
                keys = [-1 - device] if (item.devices == device).any() else []
            else:
                first = int(d.series_start[device])
                mine = item.series[first : int(d.series_start[device + 1])]
                keys = (first + np.flatnonzero(mine)).tolist()
            for key in keys:
                if self._scope(key) == scope:
                    found[rule, scope] = key
        return found

    def _is_watched(self, key: int) -> bool:
        d = self._directory
        return key < d.n_series if key >= 0 else -1 - key < d.n_devices

    def _first(self, key: int) -> int:
        """The series whose bit in `_active` stands for the key: an expression's device has its first."""
        return key if key >= 0 else int(self._directory.series_start[-1 - key])

    def _device(self, key: int) -> int:
        return int(self._directory.series_device[key]) if key >= 0 else -1 - key

    def _is_mine(self, key: int) -> bool:
        device = self._device(key)
        return self.mine is None or device >= len(self.mine) or bool(self.mine[device])

    def _scope(self, key: int) -> Scope:
        if key >= 0:
            return scope_of(self._directory, key)
        d, device = self._directory, self._device(key)
        return d.org[int(d.org_of[device])], d.site[int(d.site_of[device])], d.device[device], ""

    def _type(self, key: int) -> str:
        d = self._directory
        return d.type[int(d.type_of[self._device(key)])]


def _watched(document: dict[str, Any]) -> tuple[str, Scope]:
    return document["rule"], scope_in(document)


class _Memory:
    """Per series: the last value, when it came, and since when it has been the same."""

    def __init__(self, n_series: int) -> None:
        self._value = np.full(n_series, np.nan)
        self._ts = np.full(n_series, NEVER, np.int64)
        self._since = np.full(n_series, NEVER, np.int64)

    def take(self, series: I32, ts: I64, value: F64) -> tuple[F64, I64]:
        """Row by row: (change a second since the row before, NaN for the first; ns without a change)."""
        order = np.argsort(series, kind="stable")
        s, t, v = series[order], ts[order], value[order]
        starts = _starts(s)
        first = starts == np.arange(len(s))
        before_v, before_t = np.r_[np.nan, v[:-1]], np.r_[NEVER, t[:-1]]
        before_v[first], before_t[first] = self._value[s[first]], self._ts[s[first]]
        passed = np.where(before_t == NEVER, 0, t - before_t)
        with np.errstate(all="ignore"):
            rate = np.where(passed > 0, np.abs(v - before_v) / (passed / 1e9), np.nan)
        changed = v != before_v
        source = np.maximum.accumulate(np.where(changed | first, np.arange(len(s)), 0))
        since = np.where(changed[source], t[source], self._since[s])
        last = np.r_[first[1:], True]
        self._value[s[last]], self._ts[s[last]] = v[last], t[last]
        self._since[s[last]] = since[last]
        rates, unchanged = np.empty_like(rate), np.empty_like(t)
        rates[order], unchanged[order] = rate, t - since
        return rates, unchanged


def _starts(keys: I32) -> I64:
    """Sorted keys → for each row the place where its run begins."""
    first = np.r_[True, keys[1:] != keys[:-1]]
    found: I64 = np.maximum.accumulate(np.where(first, np.arange(len(keys)), 0))
    return found


def _compare(limit: Threshold, measured: F64) -> tuple[Bools, Bools]:
    """(holds, is over); NaN does neither."""
    holds = np.zeros(len(measured), np.bool_)
    if limit.above is not None:
        holds |= measured > limit.above
    if limit.below is not None:
        holds |= measured < limit.below
    if limit.clear is None:
        return holds, ~holds & ~np.isnan(measured)
    over = measured <= limit.clear if limit.above is not None else measured >= limit.clear
    return holds, over
