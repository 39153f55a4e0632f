"""The headline: CPU of one whole gateway per message, everything on, as a ratio to the unit."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenlang_iot.bench.measure import Measured, measure, report, warm_up
from greenlang_iot.bench.stage import Stage
from greenlang_iot.bench.unit import Unit

_WRONG = ("malformed", "wrong_value", "duplicate", "lost", "gaps")


@dataclass(slots=True, frozen=True)
class Options:
    """devices: with one series each. record_bytes: what the loader writes at once (a TLS record)."""

    seconds: float = 20.0
    devices: int = 10_000
    record_bytes: int = 16_384


def everything_on(options: Options) -> tuple[dict[str, Any], list[str]]:
    """The report of the shipped production profile, and what was found wrong."""
    with tempfile.TemporaryDirectory(prefix="greenlang-iot-bench-") as folder:
        stage = Stage(Path(folder) / "run", options.devices, options.record_bytes)
        with stage:
            gateway = stage.start_gateway({})
            unit = Unit(stage.gateway_core, stage.start_ms)
            warm_up(stage, gateway)
            measured = measure(stage, gateway, unit, options.seconds)
            wrong = _verify(stage, measured)
            return report(measured, unit, not wrong), wrong


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
