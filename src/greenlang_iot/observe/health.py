"""Readiness and the status document, read from the shards' counters."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from greenlang_iot.observe.catalog import CATALOG, cell
from greenlang_iot.observe.counters import HEARTBEAT, Counters
from greenlang_iot.settings.model import RunnerSettings, Settings

_UP = cell("shard_up")
_WANTED = cell("connections_wanted")
_CONNECTED = cell("connections_up")
_SINK_METRICS = tuple(m for m in CATALOG if [name for name, _ in m.labels] == ["sink"])


def enabled_sinks(settings: Settings) -> dict[str, RunnerSettings]:
    """The sinks that run, by the name their metrics carry."""
    sinks = settings.sinks
    candidates: tuple[tuple[str, RunnerSettings, bool], ...] = (
        ("influxdb", sinks.influxdb, sinks.influxdb.enabled),
        ("kafka", sinks.kafka, sinks.kafka.enabled),
        ("lake", sinks.lake, sinks.lake.enabled),
    )
    return {name: sink for name, sink, enabled in candidates if enabled}


def not_ready(settings: Settings, shards: Mapping[int, Counters], now_ns: int) -> list[str]:
    """Why the gateway is not ready at `now_ns` (monotonic), one sentence each; empty if it is.

    Ready: every shard runs, ticks and has all its connections, and no required sink is down or
    has a full spool.
    """
    required = [n for n, sink in enabled_sinks(settings).items() if sink.policy == "required"]
    reasons: list[str] = []
    for number in range(settings.runtime.shards):
        counters = shards.get(number)
        if counters is None or counters.get(_UP) != 1:
            reasons.append(f"shard {number} is not running")
            continue
        age = counters.age(HEARTBEAT, now_ns)
        if age > settings.runtime.heartbeat_timeout:
            since = f"for {age:.1f} s" if isfinite(age) else "yet"
            reasons.append(f"shard {number} has not ticked {since}")
        up, wanted = counters.get(_CONNECTED), counters.get(_WANTED)
        if not isfinite(wanted):
            reasons.append(f"shard {number} has not subscribed yet")
        elif not up >= wanted:
            reasons.append(
                f"shard {number} has {_count(up)} of {_count(wanted)} connections subscribed"
            )
        reasons += [
            f"shard {number}: required sink {sink} {problem}"
            for sink in required
            if (problem := _sink_problem(counters, sink))
        ]
    return reasons


def _sink_problem(counters: Counters, sink: str) -> str:
    up = counters.get(cell("sink_up", sink=sink))
    if up != 1:
        return "is down" if up == 0 else "is not open yet"
    if counters.get(cell("sink_spool_full", sink=sink)) == 1:
        return "has a full spool"
    return ""


def document(settings: Settings, shards: Mapping[int, Counters], now_ns: int) -> dict[str, Any]:
    """Counts for /status: totals of the counters, and per shard what an operator asks first."""
    return {
        "instance": settings.instance,
        "counts": {
            metric.name: _number(sum(c.total(metric.name) for c in shards.values()))
            for metric in CATALOG
            if metric.kind == "counter" and metric.scope == "shard" and metric not in _SINK_METRICS
        },
        "sinks": {
            name: {
                "policy": sink.policy,
                **{
                    m.name.removeprefix("sink_"): _over_shards(m.name, name, shards)
                    for m in _SINK_METRICS
                    if m.kind != "histogram"
                },
            }
            for name, sink in enabled_sinks(settings).items()
        },
        "shards": [_shard(number, shards[number], now_ns) for number in sorted(shards)],
    }


def _over_shards(name: str, sink: str, shards: Mapping[int, Counters]) -> float | int | None:
    """Sum over the shards; of `sink_up` the minimum, because one shard's outage is an outage."""
    values = [c.get(cell(name, sink=sink)) for c in shards.values()]
    known = [value for value in values if isfinite(value)]
    if not known:
        return None
    return _number(min(known) if name == "sink_up" else sum(known))


def _shard(number: int, counters: Counters, now_ns: int) -> dict[str, Any]:
    gauges = ("connections_wanted", "connections_up", "connections_paused", "messages_unacked")
    age = counters.age(HEARTBEAT, now_ns)
    return {
        "shard": number,
        "up": counters.get(_UP) == 1,
        "restarts": _number(counters.total("shard_restarts")),
        "heartbeat_age_seconds": age if isfinite(age) else None,
        **{name: _number(counters.get(cell(name))) for name in gauges},
    }


def _number(value: float) -> float | int | None:
    if not isfinite(value):
        return None
    return int(value) if value == int(value) else value


def _count(value: float) -> str:
    return f"{value:.0f}" if isfinite(value) else "no"
