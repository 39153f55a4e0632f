"""Manifest × what an independent reader found → a verdict. Pure, and blind to the gateway's counters.

Data decides `ok`: every promised reading is there with its value, nothing else is, and every
injected mistake is in the dead letter with its reason. Repetitions are counted, they are no fault:
delivery is at least once. Alerts are judged beside it (misses, false alerts), because a detector may
be wrong where the way of the data is right.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from greenlang_iot.model.outcomes import DeadLetter
from greenlang_iot.simulate.manifest import Expected, Manifest, Published, Reading

EXAMPLES = 10
"""Examples of each kind of difference that are kept."""

EXPLAINS: dict[str, frozenset[str]] = {
    "spike": frozenset({"spike", "rate", "range", "shift", "context", "swing", "river"}),
    "drift": frozenset({"shift", "spike", "range", "rate", "context", "swing", "river"}),
    "stuck": frozenset({"stuck", "swing"}),
    "silence": frozenset({"silence"}),
    "range": frozenset({"range"}),
}
"""Which rules count as having found an injected anomaly."""

Identity = tuple[str, str, int, int | None]


class FoundAlert(NamedTuple):
    """An alert that opened. rule: as in a Transition; opened_ns: event time."""

    device: str
    metric: str
    rule: str
    opened_ns: int

    def __str__(self) -> str:
        return (
            f"{self.rule} of {self.device} {self.metric}".rstrip()
            + f" at {_moment(self.opened_ns)}"
        )


@dataclass(slots=True)
class Reconciliation:
    """Counts, and up to EXAMPLES examples of each difference under the same name.

    readings: promised. found: rows the reader saw. missing: promised, not there. wrong_value: there
    with another value only. unexpected: rows nobody published. repeated: rows beyond the first of a
    value. rejects: (message, reason) pairs promised to be dead-lettered; missing_rejects,
    unexpected_rejects, repeated_rejects likewise. unconfirmed: messages without a promise.
    anomalies: injected; missed: without an alert; false_alerts: alerts that nothing explains.
    """

    readings: int = 0
    found: int = 0
    missing: int = 0
    wrong_value: int = 0
    unexpected: int = 0
    repeated: int = 0
    rejects: int = 0
    missing_rejects: int = 0
    unexpected_rejects: int = 0
    repeated_rejects: int = 0
    unconfirmed: int = 0
    anomalies: int = 0
    missed: int = 0
    alerts: int = 0
    false_alerts: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True if the data reconciles and there was something to reconcile."""
        differences = self.missing + self.wrong_value + self.unexpected
        differences += self.missing_rejects + self.unexpected_rejects
        return differences == 0 and self.readings > 0

    def as_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}

    def _note(self, name: str, what: object) -> None:
        setattr(self, name, getattr(self, name) + 1)
        examples = self.examples.setdefault(name, [])
        if len(examples) < EXAMPLES:
            examples.append(str(what))


def _moment(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="milliseconds")


def _reading(identity: Identity, *values: float) -> str:
    device, metric, ts_ns, seq = identity
    numbered = "" if seq is None else f", seq {seq}"
    said = " or ".join(f"{value:g}" for value in values)
    return f"{device} {metric} = {said} at {_moment(ts_ns)}{numbered}"


def _rejected(letter: "_Letter") -> str:
    topic, payload, reasons = letter
    return f"{topic}: {payload[:120].decode(errors='replace')} ({', '.join(reasons)})"


def reconcile(
    manifest: Manifest,
    rows: Iterable[Reading],
    dead_letters: Iterable[DeadLetter] | None,
    alerts: Iterable[FoundAlert] | None,
    *,
    with_seq: bool = True,
    one_value: bool = False,
) -> Reconciliation:
    """Compare what was published with what one reader found. None = this part was not read.

    with_seq: False where the store keeps no seq (InfluxDB): identity is then (device, metric, ts).
    one_value: True where the store keeps one value per identity (InfluxDB, the lake's query); any of
    the published ones is right then.
    """
    result = Reconciliation(unconfirmed=len(manifest.messages) - manifest.confirmed)
    _readings(result, manifest, rows, with_seq, one_value)
    if dead_letters is not None:
        _dead_letters(result, manifest, dead_letters)
    if alerts is not None:
        _alerts(result, manifest, alerts)
    return result


def _readings(
    result: Reconciliation,
    manifest: Manifest,
    rows: Iterable[Reading],
    with_seq: bool,
    one_value: bool,
) -> None:
    promised: dict[Identity, set[float]] = {}
    allowed: dict[Identity, set[float]] = {}
    for message in manifest.messages:
        target = promised if message.confirmed else allowed
        for device, metric, ts_ns, value, seq in message.readings:
            identity = (device, metric, ts_ns, seq if with_seq else None)
            target.setdefault(identity, set()).add(value)
    result.readings = len(promised) if one_value else sum(map(len, promised.values()))

    seen: dict[Identity, set[float]] = {}
    for device, metric, ts_ns, value, seq in rows:
        result.found += 1
        identity = (device, metric, ts_ns, seq if with_seq else None)
        values = seen.setdefault(identity, set())
        if value in values:
            result.repeated += 1
            continue
        values.add(value)
        if value in promised.get(identity, ()) or value in allowed.get(identity, ()):
            continue
        if identity in promised or identity in allowed:
            result._note("wrong_value", _reading(identity, value))
        else:
            result._note("unexpected", _reading(identity, value))
    for identity, expected in promised.items():
        there = seen.get(identity, set())
        if one_value:
            # the last writer wins, and it may have been an unconfirmed message
            if not there & (expected | allowed.get(identity, set())):
                result._note("missing", _reading(identity, *expected))
        else:
            for value in expected - there:
                result._note("missing", _reading(identity, value))


_Letter = tuple[str, bytes, tuple[str, ...]]
"""(topic, payload, its reasons in order)"""


def _dead_letters(
    result: Reconciliation, manifest: Manifest, dead_letters: Iterable[DeadLetter]
) -> None:
    promised: Counter[_Letter] = Counter()
    allowed: Counter[_Letter] = Counter()
    for message in manifest.messages:
        if message.rejects:
            (promised if message.confirmed else allowed)[_letter_of(message)] += 1
    result.rejects = promised.total()
    found: Counter[_Letter] = Counter(
        (letter.topic, letter.payload, tuple(sorted(reason for _, reason in letter.paths)))
        for letter in dead_letters
        if letter.kind == "message"
    )
    for letter, count in promised.items():
        for _ in range(count - found[letter]):
            result._note("missing_rejects", _rejected(letter))
    for letter, count in found.items():
        known = promised[letter] + allowed[letter]
        if known == 0:
            result._note("unexpected_rejects", _rejected(letter))
        else:
            result.repeated_rejects += max(0, count - known)


def _letter_of(message: Published) -> _Letter:
    reasons = tuple(sorted(reason for _, reason in message.rejects))
    return message.topic, message.payload, reasons


def _alerts(result: Reconciliation, manifest: Manifest, alerts: Iterable[FoundAlert]) -> None:
    by_device: dict[str, list[Expected]] = {}
    for expected in manifest.expected:
        by_device.setdefault(expected.device, []).append(expected)
    unjudged = set(manifest.header.unjudged)
    hit: set[Expected] = set()
    for alert in alerts:
        after_the_end = alert.rule == "silence" and alert.opened_ns >= manifest.header.end_ns
        if alert.device == "" or alert.device in unjudged or after_the_end:
            continue  # wider than a device, real data, or everybody is silent after the end
        result.alerts += 1
        causes = [e for e in by_device.get(alert.device, ()) if _is_about(alert, e)]
        hit.update(e for e in causes if alert.rule in EXPLAINS[e.kind])
        if not causes:
            result._note("false_alerts", alert)
    result.anomalies = len(manifest.expected)
    for expected in manifest.expected:
        if expected not in hit:
            result._note("missed", expected)


def _is_about(alert: FoundAlert, expected: Expected) -> bool:
    """Whether the alert lies in the anomaly's place and time, whatever rule found it."""
    in_time = expected.from_ns <= alert.opened_ns <= expected.to_ns
    return in_time and expected.metric in ("", alert.metric)
