"""Ladders: the shipped production profile, and the same with one thing changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from greenlang_iot.bench import rung
from greenlang_iot.bench.headline import EVERYTHING, ZSTD
from greenlang_iot.bench.rung import Rung
from greenlang_iot.bench.stage import Setup
from greenlang_iot.bench.workload import PACKET

OFF = {"enabled": False}
NO_KAFKA = {"kafka": OFF, "dead_letter": {"target": "files"}}
UNCHECKED = Setup(checked=False)
"""For settings that change what a record looks like: the sinks count, and do not read."""
CHECKED_DEVICES = 100_000
"""The sinks remember each device's newest reading of one metric; of more they only count."""

LADDERS: dict[str, tuple[Rung, ...]] = {
    "features": (
        Rung(EVERYTHING),
        Rung("without TLS", setup=Setup(tls=False)),
        Rung("QoS 0", setup=Setup(qos=0)),
        Rung("without detection", {"detect": OFF}, UNCHECKED),
        Rung("without river", {"detect": {"second_stage": OFF}}),
        Rung("without quality", {"quality": OFF}),
        Rung("without InfluxDB", {"sinks": {"influxdb": OFF}}),
        Rung("without Kafka", {"sinks": NO_KAFKA}),
        Rung(
            "InfluxDB, and nothing judged",  # what Telegraf does of it, at the same promise
            {"sinks": NO_KAFKA, "detect": OFF, "quality": OFF},
            UNCHECKED,
        ),
        Rung("Kafka zstd", ZSTD),
        Rung("Kafka snappy", {"sinks": {"kafka": {"compression": "snappy"}}}),
        Rung("Kafka gzip", {"sinks": {"kafka": {"compression": "gzip"}}}),
        Rung("InfluxDB gzip", {"sinks": {"influxdb": {"gzip": True}}}),
        Rung("with the lake", {"sinks": {"lake": {"enabled": True}}}),
        rung.spooled(Rung(EVERYTHING)),
    ),
    "records": tuple(
        Rung(f"{n} messages a TLS record", setup=Setup(record_bytes=n * PACKET))
        for n in (1, 4, 16, 128)
    ),
    "devices": tuple(
        Rung(
            f"{devices:,} devices × {metrics}",
            setup=Setup(
                devices, metrics=metrics, checked=metrics == 1 and devices <= CHECKED_DEVICES
            ),
        )
        for devices, metrics in ((10_000, 1), (10_000, 4), (100_000, 4), (1_000_000, 4))
    ),
    "batches": tuple(
        Rung(f"batches of {kib} KiB", {"batch": {"max_bytes": kib * 1024}})
        for kib in (256, 1_024, 2_048, 4_096, 8_192)
    ),
    "shards": tuple(
        Rung(f"{shards} shard{'s' * (shards > 1)}", {"runtime": {"shards": shards}})
        for shards in (1, 2)
    ),
}


def servers(broker: str, ca_file: str, kafka: str, influxdb: str) -> tuple[Rung, ...]:
    """Each real server that has an address in the place of ours, and all of them together."""
    given = {
        "a real broker": Setup(broker=broker, ca_file=ca_file),
        "a real Kafka": Setup(kafka=kafka),
        "a real InfluxDB": Setup(influxdb=influxdb),
        "all of these": Setup(broker=broker, ca_file=ca_file, kafka=kafka, influxdb=influxdb),
    }
    chosen = {name: setup for name, setup in given.items() if setup != Setup(ca_file=setup.ca_file)}
    if len(chosen) == 2:  # one server, and that one once more
        del chosen["all of these"]
    return Rung(EVERYTHING), *(Rung(name, setup=setup) for name, setup in chosen.items())


@dataclass(slots=True)
class Ladder:
    """Rows, one a rung, and sentences about what is wrong."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def run(rungs: Sequence[Rung], seconds: float, say: Callable[[str], None]) -> Ladder:
    """Every rung, telling `say` which comes next."""
    done = Ladder()
    for step in rungs:
        say(step.name)
        outcome = rung.run(step, seconds)
        done.rows.append(outcome.row)
        done.wrong += [f"{step.name}: {sentence}" for sentence in outcome.wrong]
    return done
