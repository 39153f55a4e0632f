"""Reads a lake back for a reconciliation, by SQL like any other reader."""

from collections.abc import Iterator

from greenlang_iot.simulate.manifest import Reading
from greenlang_iot.simulate.reconcile import FoundAlert
from greenlang_iot.sinks.lake import Lake


def read_readings(lake: Lake) -> Iterator[Reading]:
    """Every reading of the lake, once per identity."""
    rows = lake.query("SELECT device, metric, epoch_ns(ts), value, seq FROM readings")
    for device, metric, ts_ns, value, seq in rows:
        yield Reading(device, metric, ts_ns, value, seq)


def read_alerts(lake: Lake) -> Iterator[FoundAlert]:
    """Every alert that opened."""
    rows = lake.query("SELECT device, metric, rule, opened FROM alerts WHERE state = 'open'")
    for device, metric, rule, opened_ns in rows:
        yield FoundAlert(device, metric, rule, opened_ns)
