"""The headline: CPU of one whole gateway per message, everything on, as a ratio to the unit.

Three runs, each with processes of its own: the shipped production profile; the same with both sinks
away, so that every chunk is spooled and acknowledged after its fsync; and what one writes by hand.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenlang_iot.bench.measure import (
    Measured,
    measure,
    report,
    wait_for_empty_spool,
    warm_up,
)
from greenlang_iot.bench.processes import PATIENCE, Child, cpu_ns
from greenlang_iot.bench.stage import Stage
from greenlang_iot.bench.tally import Tally
from greenlang_iot.bench.unit import Unit
from greenlang_iot.encode.records import BATCH_HEADER, pieces
from greenlang_iot.spool.log import SegmentLog

_WRONG = ("malformed", "wrong_value", "duplicate", "lost", "gaps")
_BASE_TIMESTAMP_AT = 27


@dataclass(slots=True, frozen=True)
class Options:
    """seconds of load that count; devices, with one series each; record_bytes: of a TLS record."""

    seconds: float = 20.0
    devices: int = 10_000
    record_bytes: int = 16_384
    spool: bool = True
    by_hand: bool = True


@dataclass(slots=True)
class Headline:
    """What came of it: `result` as printed, and sentences about what is wrong."""

    result: dict[str, Any]
    wrong: list[str]


def headline(options: Options) -> Headline:
    """Run all that is asked for; raises GatewayError where a process does not start."""
    with _stage(options) as stage:
        gateway = stage.start_gateway({})
        unit = Unit(stage.gateway_core, stage.start_ms)
        stage.wait_until_ready(gateway)
        warm_up(stage, gateway)
        wait_for_empty_spool(stage)
        before = stage.metric("sink_spooled_readings")
        measured = measure(stage, gateway, unit, options.seconds)
        spooled = stage.metric("sink_spooled_readings") - before
        wait_for_empty_spool(stage)
        wrong = _verify(stage, measured)
    result = report(measured, unit, not wrong)
    if spooled:
        wrong.append(f"the spool was not idle: {spooled:,.0f} readings went through it")
    if unit.spread > 0.25:
        wrong.append(f"the unit's spread is {unit.spread:.0%}: over 25 % this run says nothing")
    if options.spool:
        result["spool"], more = _spooled(options)
        wrong += more
    if options.by_hand:
        result["by_hand"] = _by_hand(options, unit)
    return Headline(result, wrong)


@contextmanager
def _stage(options: Options, *, up: bool = True, checked: bool = True) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="greenlang-iot-bench-") as folder:
        where = Path(folder) / "run"
        with Stage(where, options.devices, options.record_bytes, up=up, checked=checked) as stage:
            yield stage


def _spooled(options: Options) -> tuple[dict[str, Any], list[str]]:
    """A quarter of the seconds with both sinks away: a second of load is a gigabyte of spool."""
    with _stage(options, up=False) as stage:
        gateway = stage.start_gateway({"sinks": {"dead_letter": {"target": "files"}}})
        unit = Unit(stage.gateway_core, stage.start_ms)
        stage.wait_for_subscribers(gateway, 2)
        warm_up(stage, gateway)
        measured = measure(stage, gateway, unit, options.seconds / 4)
        loader = stage.loader.ask()
        gateway.stop()
        wrong = _verify_spool(stage, int(loader["acked"]))
        if loader["sent"] != loader["acked"] or loader["disorder"] or loader["lost"]:
            wrong.append(f"acknowledgements: {loader}")
        return report(measured, unit, not wrong), wrong


def _by_hand(options: Options, unit: Unit) -> dict[str, Any]:
    """CPU per message of `by_hand`, until its sinks have all that it acknowledged."""
    with _stage(options, checked=False) as stage:
        child: Child = stage.child(
            "greenlang_iot.bench.by_hand",
            stage.port, stage.ca_file, stage.influxdb_port, stage.kafka_port, gateway=True,
        )  # fmt: skip
        stage.wait_for_subscribers(child, 1)
        before, begun = cpu_ns([child.process.pid]), time.monotonic()
        stage.loader.ask("go")
        time.sleep(min(options.seconds / 10, 3.0))
        acked = stage.loader.ask("pause")["acked"]
        deadline = time.monotonic() + PATIENCE
        while min(stage.influxdb.ask()["lines"], stage.kafka.ask()["records"]) < acked:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        seconds = time.monotonic() - begun
        used = (cpu_ns([child.process.pid]) - before) / max(acked, 1)
        return {
            "cpu_ns_per_message": round(used),
            "ratio": round(used / unit.ns, 1),
            "messages_per_s": round(acked / seconds),
            "messages": acked,
        }


def _verify(stage: Stage, measured: Measured) -> list[str]:
    """What does not agree: everything acknowledged is in both sinks, once, whole and in order."""
    loader, influxdb, kafka = stage.loader.ask(), stage.influxdb.ask(), stage.kafka.ask()
    acked = loader["acked"]
    wrong = []
    if loader["sent"] != acked or loader["disorder"] or loader["lost"] or not measured.messages:
        wrong.append(f"acknowledgements: {loader}")
    counted = influxdb["lines"] == acked == influxdb["readings"]
    if not counted or any(influxdb[name] for name in _WRONG):
        wrong.append(f"InfluxDB, of {acked} messages: {influxdb}")
    counted = kafka["records"] == acked == kafka["readings"]
    faults = (*_WRONG, "disordered", "bad_crc", "bad_batch", "out_of_order", "repeated")
    if not counted or any(kafka[name] for name in faults):
        wrong.append(f"Kafka, of {acked} messages: {kafka}")
    return wrong


def _verify_spool(stage: Stage, acked: int) -> list[str]:
    """What does not agree: both spools hold everything acknowledged, once, whole and in order."""
    lines, records = (Tally(stage.devices, stage.start_ms) for _ in range(2))
    for body in _spool_bodies(stage, "influxdb"):
        lines.lines(body)
    for body in _spool_bodies(stage, "kafka"):
        for piece in pieces(body):
            base_ms = int.from_bytes(piece.batch[_BASE_TIMESTAMP_AT : _BASE_TIMESTAMP_AT + 8])
            records.records(bytes(piece.batch), BATCH_HEADER.size, base_ms)
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
