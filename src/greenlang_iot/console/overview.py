"""Rates, latencies and states for the console, from the shards' counters: one look a second."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, Final

import numpy as np

from greenlang_iot.model.batches import F64
from greenlang_iot.observe.catalog import METRICS, cell
from greenlang_iot.observe.counters import HEARTBEAT, Counters
from greenlang_iot.observe.health import enabled_sinks
from greenlang_iot.quality.figures import FIGURES
from greenlang_iot.settings.model import QualitySettings, Settings

HISTORY: Final = 600
"""Seconds of rates that are kept for the charts."""
WINDOW: Final = 10
"""Seconds over which rates of shards and sinks, and latencies, are taken."""

_LATENCY: Final = METRICS["ack_seconds"]
_REQUEST: Final = METRICS["sink_request_seconds"]
_RATES: Final = {
    "messages": "messages_received",
    "readings": "readings_decoded",
    "bytes": "received_bytes",
    "acknowledged": "acks_sent",
    "suspect": "scores_suspect",
}
_COLUMNS: Final = ("time", "messages", "readings", "p50", "p99")
_SINK_SUMS: Final = (
    "queue_bytes",
    "queue_bytes_bound",
    "in_flight_chunks",
    "spool_readings",
    "spool_bytes",
    "spool_bytes_bound",
    "delivered_readings",
    "refused_readings",
    "dropped_readings",
)
_REASONS: Final = tuple(
    (reason, cell(name, reason=reason))
    for name in ("messages_undecodable", "readings_rejected")
    for reason in METRICS[name].labels[0][1]
)


@dataclass(slots=True, frozen=True)
class _Sample:
    """Every shard's cells at one moment (monotonic seconds)."""

    at: float
    shards: dict[int, F64]


class Overview:
    """Keeps the last WINDOW samples and HISTORY seconds of rates; `sample` once a second."""

    def __init__(self, shards: Mapping[int, Counters], gateway: Counters) -> None:
        self._shards = shards
        self._gateway = gateway
        self._samples: deque[_Sample] = deque(maxlen=WINDOW + 1)
        self._history: deque[tuple[float, float, float, float | None, float | None]] = deque(
            maxlen=HISTORY
        )

    def sample(self, now: float, wall: float) -> None:
        """Take a sample. now: monotonic, wall: seconds since 1970."""
        newest = _Sample(now, {n: c.snapshot() for n, c in sorted(self._shards.items())})
        last = self._samples[-1] if self._samples else None
        self._samples.append(newest)
        if last is not None:
            messages, readings = (
                _rate(last, newest, cell(_RATES[name])) for name in ("messages", "readings")
            )
            p50, p99 = self._latency((0.5, 0.99))
            self._history.append((round(wall, 1), messages, readings, p50, p99))

    def history(self) -> dict[str, list[Any]]:
        """Columns of the last minutes, oldest first. time: seconds since 1970."""
        columns: Sequence[tuple[Any, ...]] = list(zip(*self._history, strict=True)) or [()] * 5
        return {name: list(column) for name, column in zip(_COLUMNS, columns, strict=True)}

    def document(self, settings: Settings) -> dict[str, Any]:
        """What the overview page shows, but for health and registry. Rates are per second."""
        p50, p99 = self._latency((0.5, 0.99))
        second = self._history[-1] if self._history else None
        return {
            "time": time.time(),
            "second": second and dict(zip(_COLUMNS, second, strict=True)),
            "rates": {name: self._rate(cell(metric)) for name, metric in _RATES.items()},
            "totals": {
                name: self._total(metric)
                for name, metric in (*_RATES.items(), ("duplicates", "readings_duplicate"))
            },
            "latency": {"p50": p50, "p99": p99, "bounds": list(_LATENCY.buckets)},
            "shards": [self._shard(number) for number in sorted(self._shards)],
            "sinks": [
                {"sink": name, "policy": sink.policy, **self._sink(name)}
                for name, sink in enabled_sinks(settings).items()
            ],
            "dead_letters": {
                "kept": self._total("dead_letters")
                - self._sum(cell("dead_letters", kind="digest")),
                "digested": self._sum(cell("dead_letters", kind="digest")),
                "bytes": self._sum(cell("dead_letter_bytes")),
                "bytes_bound": self._sum(cell("dead_letter_bytes_bound")),
                "reasons": self._reasons(),
            },
            "quality": self._quality(settings.quality) if settings.quality.enabled else None,
            "alerts_open": {
                severity: _number(self._gateway.get(cell("alerts_open", severity=severity)))
                for severity in ("critical", "warning", "info")
            },
        }

    # ---- parts ----------------------------------------------------------------------------------

    def _shard(self, number: int) -> dict[str, Any]:
        counters, now_ns = self._shards[number], time.monotonic_ns()
        gauges = {
            "connections_up": "connections_up",
            "connections_wanted": "connections_wanted",
            "connections_paused": "connections_paused",
            "unacked": "messages_unacked",
            "window": "receive_window_bound",
            "ledger_bytes": "ledger_bytes",
            "ledger_bytes_bound": "ledger_bytes_bound",
            "resident_bytes": "resident_bytes",
        }
        return {
            "shard": number,
            "up": counters.get(cell("shard_up")) == 1,
            "restarts": _number(counters.total("shard_restarts")),
            "heartbeat_age": _number(counters.age(HEARTBEAT, now_ns)),
            "last_message_age": _number(
                counters.age(cell("last_message_age_seconds"), now_ns)
                if counters.total("messages_received")
                else nan  # the gauge counts from the start then
            ),
            "messages": self._rate(cell("messages_received"), number),
            "readings": self._rate(cell("readings_decoded"), number),
            "cpu": self._rate(cell("cpu_seconds"), number),
            "p99": self._latency((0.99,), number)[0],
            **{name: _number(counters.get(cell(metric))) for name, metric in gauges.items()},
        }

    def _sink(self, name: str) -> dict[str, Any]:
        up = [c.get(cell("sink_up", sink=name)) for c in self._shards.values()]
        known = [value for value in up if isfinite(value)]
        retries = METRICS["sink_retries"].labels[1][1]
        failing = {
            reason: self._rate(cell("sink_retries", sink=name, reason=reason)) for reason in retries
        }
        return {
            "up": min(known) == 1 if known else None,
            "delivered": self._rate(cell("sink_delivered_readings", sink=name)),
            "spool_full": any(
                c.get(cell("sink_spool_full", sink=name)) == 1 for c in self._shards.values()
            ),
            "p99": self._quantiles(
                cell("sink_request_seconds", sink=name), _REQUEST.buckets, (0.99,)
            )[0],
            "failing": {reason: rate for reason, rate in failing.items() if rate},
            **{key: self._sum(cell(f"sink_{key}", sink=name)) for key in _SINK_SUMS},
        }

    def _quality(self, settings: QualitySettings) -> dict[str, Any]:
        """By figure: of the fleet's last window (None before the first is over), and its target."""
        return {
            figure: {
                "score": _number(self._gateway.get(cell("quality_ratio", figure=figure))),
                "target": getattr(settings, figure),
                "below": _number(
                    self._gateway.get(cell("quality_devices_below_target", figure=figure))
                ),
            }
            for figure in FIGURES
        }

    def _reasons(self) -> list[dict[str, Any]]:
        """Every reason that occurred since the start, the most frequent first."""
        counts = [(reason, self._sum(index)) for reason, index in _REASONS]
        counts.append(
            (
                "sink_refused",
                sum(c.total("sink_refused_readings") for c in self._shards.values()),
            )
        )
        found = [{"reason": r, "count": int(n)} for r, n in counts if n]
        return sorted(found, key=lambda item: (-item["count"], item["reason"]))

    # ---- sums, rates, quantiles -----------------------------------------------------------------

    def _sum(self, index: int) -> float | int:
        values = [c.get(index) for c in self._shards.values()]
        return _number(sum(v for v in values if isfinite(v))) or 0

    def _total(self, name: str) -> float | int:
        return _number(sum(c.total(name) for c in self._shards.values())) or 0

    def _rate(self, index: int, shard: int | None = None) -> float:
        if len(self._samples) < 2:
            return 0.0
        return _rate(self._samples[0], self._samples[-1], index, shard)

    def _latency(
        self, shares: tuple[float, ...], shard: int | None = None
    ) -> tuple[float | None, ...]:
        return self._quantiles(cell("ack_seconds"), _LATENCY.buckets, shares, shard)

    def _quantiles(
        self,
        first: int,
        bounds: Sequence[float],
        shares: tuple[float, ...],
        shard: int | None = None,
    ) -> tuple[float | None, ...]:
        """Quantiles of a histogram over the window, linear within a bucket; None: nothing happened."""
        if len(self._samples) < 2:
            return (None,) * len(shares)
        last, newest = self._samples[0], self._samples[-1]
        counts = np.zeros(len(bounds) + 1)
        for number in newest.shards if shard is None else (shard,):
            after = newest.shards.get(number)
            before = last.shards.get(number)
            if after is not None and before is not None:
                counts += (after - before)[first : first + len(counts)]
        total = counts.sum()
        if total <= 0:
            return (None,) * len(shares)
        edges = np.array([0.0, *bounds, bounds[-1]])
        running = np.concatenate((np.zeros(1), np.cumsum(counts)))
        return tuple(float(np.interp(share * total, running, edges)) for share in shares)


def _rate(last: _Sample, newest: _Sample, index: int, shard: int | None = None) -> float:
    """Per second, over all shards or one; a counter that began anew counts from 0."""
    seconds = newest.at - last.at
    if seconds <= 0:
        return 0.0
    total = 0.0
    for number in newest.shards if shard is None else (shard,):
        after = float(newest.shards[number][index])
        before = float(last.shards[number][index]) if number in last.shards else 0.0
        grown = after - before
        if isfinite(grown):
            total += grown if grown >= 0 else after
    return total / seconds


def _number(value: float) -> float | int | None:
    if not isfinite(value):
        return None
    return int(value) if value == int(value) else value
