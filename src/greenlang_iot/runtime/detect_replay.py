"""History of one series through the detector and the alerter that shards run."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import orjson

from greenlang_iot.alerts.rules import Alerter
from greenlang_iot.console.band import only
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.detect.limits import limits
from greenlang_iot.devices import registry
from greenlang_iot.model.batches import F32, F64, I64, U8, U16
from greenlang_iot.model.directory import PROFILES, Directory
from greenlang_iot.model.flags import DETECTOR_NAMES, LEARNING, NOT_LEARNT, SHED, SUSPECT
from greenlang_iot.model.numbers import batch_of_numbers
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.settings.model import AlertSettings, DetectSettings

BATCH: Final = 1_000
"""Readings given at a time; what comes out does not depend on it."""


@dataclass(slots=True)
class Episode:
    """One alert, from its opening. resolved_ns: None while it lasts."""

    opening: Transition
    resolved_ns: int | None = None

    def as_dict(self) -> dict[str, Any]:
        t = self.opening
        return {
            "opened": t.opened_ns,
            "resolved": self.resolved_ns,
            "rule": t.rule,
            "severity": t.severity,
            "value": t.value,
            "expected": t.expected,
            "band": t.band,
            "score": t.score,
            "summary": t.summary,
        }


@dataclass(slots=True)
class Replay:
    """Columns of equal length, one row a reading, in the order in which they were given.

    score: −log10 of the tail share. threshold: the series' own, of its profile.
    """

    ts_ns: I64
    value: F64
    score: F32
    expected: F32
    band: F32
    detector: U8
    verdict: U8
    flags: U16
    threshold: float
    profile: str
    episodes: list[Episode] = field(default_factory=list)
    observations: int = 0

    def figures(self) -> dict[str, Any]:
        """What came of it, as plain JSON types."""
        n = len(self.ts_ns)
        suspect = (self.verdict & SUSPECT) != 0
        days = (int(self.ts_ns.max()) - int(self.ts_ns.min())) / 86_400e9 if n else 0.0
        by_rule: dict[str, int] = {}
        for episode in self.episodes:
            by_rule[episode.opening.rule] = by_rule.get(episode.opening.rule, 0) + 1
        return {
            "profile": self.profile,
            "threshold": round(self.threshold, 4),
            "readings": n,
            "days": round(days, 3),
            "learning": int(((self.verdict & LEARNING) != 0).sum()),
            "not_learnt": int(((self.flags & NOT_LEARNT) != 0).sum()),
            "suspect": int(suspect.sum()),
            "alerts": len(self.episodes),
            "alerts_by_rule": by_rule,
            "highest_score": round(float(self.score.max()), 3) if n else 0.0,
            "second_stage": self.observations,
            "shed": int(((self.verdict & SHED) != 0).sum()),
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """One reading a row."""
        columns = (self.ts_ns, self.value, self.expected, self.band, self.score, self.detector)
        for i, (ts, value, expected, band, score, detector) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            yield {
                "ts": ts,
                "value": value,
                "expected": expected if np.isfinite(expected) else None,
                "band": band if np.isfinite(band) else None,
                "score": score,
                "detector": DETECTOR_NAMES[detector],
                "verdict": _verdict(int(self.verdict[i]), int(self.flags[i])),
            }


def _verdict(verdict: int, flags: int) -> str:
    if flags & NOT_LEARNT:
        return "not learnt"
    if verdict & LEARNING:
        return "learning"
    return "suspect" if verdict & SUSPECT else "ok"


def unregistered() -> Directory:
    """A series of which nothing is known: no range, no step, no interval."""
    document = {
        "version": 1,
        "types": {"file": {"metrics": {"value": {"unit": "1", "profile": "default"}}}},
        "devices": [{"id": "series", "org": "replay", "site": "file", "type": "file"}],
    }
    return registry.parse(orjson.dumps(document))


def replay(
    directory: Directory,
    series: int,
    ts_ns: I64,
    value: F64,
    detect: DetectSettings,
    alerts: AlertSettings,
    profile: str | None = None,
) -> Replay:
    """The readings, in the order given, as a shard would judge them that begins with the first one.

    series: index in `directory`; profile: instead of the registry's. Silence is looked for in event
    time, where the registry knows an interval.
    """
    alone = only(directory, series)
    if profile is not None:
        alone = replace(alone, profile=np.full(1, PROFILES.index(profile), np.uint8))
    detector, alerter = Detector(alone, detect), Alerter(alone, alerts)
    detector.load_second_stage()
    seen: list[Transition] = []
    result = _empty(len(ts_ns), ts_ns, value)
    result.threshold = float(limits(alone, detect.threshold).rows["threshold"][0])
    result.profile = PROFILES[int(alone.profile[0])]
    patience = int(alone.interval_ns[0] * detect.silence_intervals)
    if len(ts_ns):
        detector.silent(int(ts_ns[0]))  # from here on silence counts
    for rows in _batches(ts_ns, patience):
        # Each is a reading of its own, also where two share a time stamp: seq counts them.
        batch = batch_of_numbers(
            np.zeros(rows.stop - rows.start, np.int32),
            np.ascontiguousarray(ts_ns[rows]),
            np.ascontiguousarray(value[rows]),
            seq=np.arange(rows.start, rows.stop, dtype=np.int64),
            received_ns=int(ts_ns[rows.stop - 1]),
        )
        scores = detector.score(batch)
        seen += alerter.evaluate(batch, scores)
        for name in ("score", "expected", "band", "detector", "verdict"):
            getattr(result, name)[rows] = getattr(scores, name)
        result.flags[rows] = batch.flags
        if patience and rows.stop < len(ts_ns):
            overdue = batch.received_ns + patience + 1
            if int(ts_ns[rows.stop]) > overdue:
                seen += alerter.evaluate_silence(detector.silent(overdue), overdue)
    result.episodes = _episodes(seen)
    result.observations = detector.observations
    return result


def _empty(n: int, ts_ns: I64, value: F64) -> Replay:
    return Replay(
        ts_ns,
        value,
        np.zeros(n, np.float32),
        np.full(n, np.nan, np.float32),
        np.full(n, np.nan, np.float32),
        np.zeros(n, np.uint8),
        np.zeros(n, np.uint8),
        np.zeros(n, np.uint16),
        0.0,
        "",
    )


def _batches(ts_ns: I64, patience: int) -> Iterator[slice]:
    """Rows that go together: at most BATCH, and no silence between them."""
    cuts = set(range(0, len(ts_ns), BATCH)) | {len(ts_ns)}
    if patience:
        cuts |= set((np.flatnonzero(np.diff(ts_ns) > patience) + 1).tolist())
    edges = sorted(cuts)
    for first, end in itertools.pairwise(edges):
        yield slice(first, end)


def _episodes(seen: list[Transition]) -> list[Episode]:
    found: dict[str, Episode] = {}
    for transition in seen:
        if transition.state == "open":
            found.setdefault(transition.alert_id, Episode(transition))
        elif transition.state == "resolved" and transition.alert_id in found:
            found[transition.alert_id].resolved_ns = transition.at_ns
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Comparison:
    """Alerts of `a` and `b`; those that overlap in time are one finding of both."""

    both: list[tuple[Episode, Episode]]
    only_a: list[Episode]
    only_b: list[Episode]


def compare(a: Replay, b: Replay) -> Comparison:
    """What one finds and the other does not."""
    both: list[tuple[Episode, Episode]] = []
    left = list(b.episodes)
    only_a = []
    for mine in a.episodes:
        other = next((theirs for theirs in left if _overlap(mine, theirs)), None)
        if other is None:
            only_a.append(mine)
        else:
            left.remove(other)
            both.append((mine, other))
    return Comparison(both, only_a, left)


def _overlap(one: Episode, other: Episode) -> bool:
    def end(episode: Episode) -> float:
        return float("inf") if episode.resolved_ns is None else episode.resolved_ns

    return one.opening.opened_ns <= end(other) and other.opening.opened_ns <= end(one)
