"""Reads a lake back for a reconciliation, by SQL like any other reader."""

from collections.abc import Iterator
from pathlib import Path

from greenlang_iot.simulate.manifest import Reading
from greenlang_iot.simulate.reconcile import FoundAlert
from greenlang_iot.sinks.lake_query import LakeReader


def read_readings(lake: Path) -> Iterator[Reading]:
    """Every reading of the lake in this folder, once per identity."""
    rows = LakeReader(lake).query("SELECT device, metric, ts, value, seq FROM readings")
    columns = [rows.column(i).to_pylist() for i in range(5)]
    yield from map(Reading, *columns)


def read_alerts(lake: Path) -> Iterator[FoundAlert]:
    """Every alert that opened."""
    rows = LakeReader(lake).query(
        "SELECT DISTINCT ON (alert_id) device, metric, rule, opened FROM alerts WHERE state = 'open'"
    )
    columns = [rows.column(i).to_pylist() for i in range(4)]
    yield from map(FoundAlert, *columns)
