"""Others in the gateway's place: written by hand, with the stock clients, or any command.

A peer is told by its environment where everything is: BENCH_MQTT_PORT and BENCH_CA_FILE (TLS, MQTT 5; the
topics are greenlang/+/+/+/telemetry), BENCH_INFLUXDB_PORT (/api/v2/write) and BENCH_KAFKA_PORT.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from greenlang_iot.bench.processes import PATIENCE, cpu_ns, family, rss_bytes
from greenlang_iot.bench.rung import Outcome, stage_of
from greenlang_iot.bench.stage import Setup, Stage
from greenlang_iot.bench.unit import Unit

BURSTS = 20


@dataclass(slots=True, frozen=True)
class Peer:
    """command: what to start. kafka, influxdb: whether it writes there. acks: at QoS 1."""

    name: str
    command: Sequence[object]
    influxdb: bool = True
    kafka: bool = True
    qos: int = 1


BY_HAND = Peer("by hand", (sys.executable, "-m", "greenlang_iot.bench.by_hand"))
STOCK = Peer("stock clients", (sys.executable, "-m", "greenlang_iot.bench.by_hand", "stock"))


def run(peer: Peer, seconds: float, record_bytes: int = 16_384) -> Outcome:
    """CPU per message of a peer, until its sinks have all that it was sent."""
    setup = Setup(record_bytes=record_bytes, qos=peer.qos, checked=False)
    with stage_of(setup) as stage:
        unit = Unit(stage.gateway_core, stage.start_ms)
        child = stage.start_peer(peer.command)
        stage.wait_for_subscribers(child, 1)
        stage.loader.ask("go")  # what is compiled or connected at the first message
        time.sleep(seconds / 4)
        first = stage.loader.ask("pause")["sent"]
        _wait(stage, peer, first)
        for _ in range(BURSTS // 2):
            unit.burst()
        pids = family(child.process.pid)
        before, begun = cpu_ns(pids), time.monotonic()
        stage.loader.ask("go")
        time.sleep(seconds)
        counts = stage.loader.ask("pause")
        arrived = _wait(stage, peer, counts["sent"])
        elapsed = time.monotonic() - begun
        messages = max(arrived - first, 1)
        used = (cpu_ns(pids) - before) / messages
        for _ in range(BURSTS // 2):
            unit.burst()
        wrong = [] if arrived >= counts["sent"] else [f"{arrived} of {counts['sent']} arrived"]
        row = {
            "name": peer.name,
            "cpu_ns_per_message": round(used),
            "unit_ns": round(unit.ns, 1),
            "ratio": round(used / unit.ns, 1),
            "messages_per_s": round(messages / elapsed),
            "rss_mb": round(rss_bytes(pids) / 1e6, 1),
            "spread": round(unit.spread, 3),
            "messages": messages,
            "seconds": round(elapsed, 2),
        }
        return Outcome(row, [f"{peer.name}: {sentence}" for sentence in wrong])


def _wait(stage: Stage, peer: Peer, messages: int) -> int:
    """Until the sinks have so many; how many they have after PATIENCE."""
    off = {"influxdb": {"enabled": peer.influxdb}, "kafka": {"enabled": peer.kafka}}
    deadline = time.monotonic() + PATIENCE
    while (arrived := stage.received({"sinks": off})) < messages and time.monotonic() < deadline:
        time.sleep(0.02)
    return arrived
