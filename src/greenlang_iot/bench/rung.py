"""One run of one gateway: start it, warm it up, measure, verify. A rung is a run with a name."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from greenlang_iot.bench.inbox import spared
from greenlang_iot.bench.measure import (
    Measured,
    measure,
    report,
    sustain,
    wait_for_empty_spool,
    warm_up,
)
from greenlang_iot.bench.processes import Child
from greenlang_iot.bench.stage import Setup, Stage
from greenlang_iot.bench.tally import Tally
from greenlang_iot.bench.unit import Unit
from greenlang_iot.encode.bodies import BATCH_HEADER, pieces
from greenlang_iot.spool.log import SegmentLog

COUNTED = "counts only"
"""`verified` where the sinks did not read what they got: what was acknowledged is in both, by its number."""
VOID = 0.25
"""Spread of the unit beyond which a run says nothing."""
_WRONG = ("malformed", "wrong_value", "duplicate", "lost", "gaps")
_BASE_TIMESTAMP_AT = 27


@dataclass(slots=True, frozen=True)
class Rung:
    """changes: what differs from the shipped production settings."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    setup: Setup = field(default_factory=Setup)


@dataclass(slots=True)
class Outcome:
    """What came of it: `row` as printed, and sentences about what is wrong."""

    row: dict[str, Any]
    wrong: list[str]


@contextmanager
def stage_of(setup: Setup) -> Iterator[Stage]:
    """A stage in a folder that goes away with it."""
    with (
        tempfile.TemporaryDirectory(prefix="greenlang-iot-bench-") as folder,
        Stage(Path(folder) / "run", setup) as stage,
    ):
        yield stage


def run(rung: Rung, seconds: float, sustained: float = 0.0) -> Outcome:
    """seconds of load in stretches with calibration between; then `sustained` seconds without a pause.

    Raises GatewayError where a process does not start.
    """
    if not rung.setup.up:
        return _run_spooled(rung, seconds)
    with stage_of(rung.setup) as stage:
        gateway, ready_s = started(stage, rung)
        unit = Unit(stage.gateway_core, stage.start_ms)
        before = stage.metric("sink_spooled_readings")
        measured = measure(stage, gateway, unit, seconds, rung.changes)
        steady = sustain(stage, sustained, rung.changes) if sustained else None
        spooled = stage.metric("sink_spooled_readings") - before
        wait_for_empty_spool(stage)
        wrong = _verify(stage, measured, rung)
    row = {"name": rung.name} | report(measured, unit, not wrong)
    if not rung.setup.checked and not wrong:
        row["verified"] = COUNTED
    row["ready_s"] = round(ready_s, 2)
    if steady:
        row["sustained"] = steady
    if spooled:
        wrong.append(f"the spool was not idle: {spooled:,.0f} readings went through it")
    return Outcome(row, wrong + _void(unit))


def started(stage: Stage, rung: Rung) -> tuple[Child, float]:
    """A gateway that is ready and warm, and how many seconds it took to be ready."""
    gateway = stage.start_gateway(rung.changes)
    begun = time.monotonic()
    stage.wait_until_ready(gateway)
    ready_s = time.monotonic() - begun
    warm_up(stage, gateway, rung.changes)
    wait_for_empty_spool(stage)
    return gateway, ready_s


def spooled(rung: Rung) -> Rung:
    """The same with both sinks away."""
    changes = {"sinks": {"dead_letter": {"target": "files"}}}
    return Rung("both sinks away", changes, replace(rung.setup, up=False))


def _void(unit: Unit) -> list[str]:
    if unit.spread <= VOID:
        return []
    return [f"the unit's spread is {unit.spread:.0%}: over {VOID:.0%} this run says nothing"]


def _run_spooled(rung: Rung, seconds: float) -> Outcome:
    with stage_of(rung.setup) as stage:
        gateway = stage.start_gateway(rung.changes)
        unit = Unit(stage.gateway_core, stage.start_ms)
        stage.wait_for_subscribers(gateway, 2)
        warm_up(stage, gateway, rung.changes)
        measured = measure(stage, gateway, unit, seconds, rung.changes)
        loader = stage.loader.ask()
        gateway.stop()
        wrong = _verify_spool(stage, int(loader["acked"]))
        if loader["sent"] != loader["acked"] or loader["disorder"] or loader["lost"]:
            wrong.append(f"acknowledgements: {loader}")
        row = {"name": rung.name} | report(measured, unit, not wrong)
        return Outcome(row, wrong + _void(unit))


def _verify(stage: Stage, measured: Measured, rung: Rung) -> list[str]:
    """What does not agree: everything acknowledged is in both sinks, once, whole and in order."""
    loader, sinks, checked = stage.loader.ask(), rung.changes.get("sinks", {}), rung.setup.checked
    acked = loader["acked"] if rung.setup.qos else loader["sent"]
    arrived = stage.arrived() if rung.setup.kafka or rung.setup.influxdb else {}
    wrong = []
    if (rung.setup.qos and loader["sent"] != acked) or loader["disorder"] or loader["lost"]:
        wrong.append(f"acknowledgements: {loader}")
    if not measured.messages:
        wrong.append("nothing was acknowledged")
    wrong += [
        f"{sink} holds {held} of {acked} messages"
        for sink, held in arrived.items()
        if held != acked
    ]
    if "influxdb" not in arrived and sinks.get("influxdb", {}).get("enabled", True):
        influxdb = stage.influxdb.ask()
        counted = influxdb["lines"] == acked == (influxdb["readings"] if checked else acked)
        if not counted or any(influxdb.get(name) for name in _WRONG):
            wrong.append(f"InfluxDB, of {acked} messages: {influxdb}")
    if "kafka" not in arrived and sinks.get("kafka", {}).get("enabled", True):
        kafka = stage.kafka.ask()
        counted = kafka["records"] == acked == (kafka["readings"] if checked else acked)
        faults = (*_WRONG, "disordered", "bad_crc", "bad_batch", "out_of_order", "repeated")
        if not counted or any(kafka.get(name) for name in faults):
            wrong.append(f"Kafka, of {acked} messages: {kafka}")
    return wrong


def _verify_spool(stage: Stage, acked: int) -> list[str]:
    """What does not agree: both spools hold everything acknowledged, once, whole and in order."""
    lines, records = (Tally(stage.setup.devices, stage.start_ms) for _ in range(2))
    for body in _spool_bodies(stage, "influxdb"):
        lines.lines(spared(body), len(body))
    for body in _spool_bodies(stage, "kafka"):
        for piece in pieces(body):
            base_ms = int.from_bytes(piece.batch[_BASE_TIMESTAMP_AT : _BASE_TIMESTAMP_AT + 8])
            batch = bytes(piece.batch)
            records.records(spared(batch), BATCH_HEADER.size, len(batch), base_ms)
    wrong = []
    for sink, counts in (("InfluxDB", lines.counts()), ("Kafka", records.counts())):
        if counts["readings"] != acked or any(counts[name] for name in (*_WRONG, "disordered")):
            wrong.append(f"{sink}'s spool, of {acked} messages: {counts}")
    return wrong


def _spool_bodies(stage: Stage, sink: str) -> Iterator[bytes]:
    log = SegmentLog(
        stage.folder / "var" / "spool" / "shard-0" / sink,
        segment_bytes=1 << 26,
        max_bytes=1 << 40,
        fsync_every=0.01,
    )
    for record in log.read(1):
        yield bytes(record.body)
