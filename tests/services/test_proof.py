"""The proof: a known set of messages through real Mosquitto (TLS, QoS 1) is in Kafka and InfluxDB.

The truth is the simulator's manifest. Readers are independent of the gateway: confluent-kafka, InfluxDB's
query API, the dead letter files. The gateway's own counters decide nothing.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Consumer, TopicPartition
from tests.fakes.ports import free_port
from tests.faults.alerts import delivered
from tests.services import influxdb1, kafka_server, mosquitto_server
from tests.services.gateway_process import GatewayProcess, finished, simulate
from tests.services.influxdb1 import InfluxDB1, start_influxdb1
from tests.services.kafka_server import KafkaServer, start_kafka
from tests.services.mosquitto_server import Mosquitto

from greenlang_iot.devices.registry import load
from greenlang_iot.simulate.manifest import Manifest, Reading, read
from greenlang_iot.simulate.reconcile import FoundAlert, Reconciliation, reconcile
from greenlang_iot.sinks.deadletter import read_dead_letters

pytestmark = [
    pytest.mark.services,
    *(
        pytest.mark.skipif(bool(why), reason=str(why))
        for why in (mosquitto_server.missing(), kafka_server.missing(), influxdb1.missing())
    ),
]

# Committed before the first run: sizes and seed of what is published and injected.
DEVICES = 300
SECONDS = 25.0
SEED = 20_26


class Site:
    """All servers, and a gateway in front of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mosquitto = Mosquitto(_made(folder / "mosquitto"))
        self.influx: InfluxDB1 = start_influxdb1(_made(folder / "influxdb"))
        self.kafka: KafkaServer = start_kafka(_made(folder / "kafka"))
        self.registry = folder / "fleet.json"
        common = {"--devices": DEVICES, "--seed": SEED, "--replay": "waterflow"}
        writer = simulate({**common, "--seconds": 0, "--registry-out": self.registry})
        assert writer.wait(60) == 0
        self.settings = self._settings()
        self.gateway: GatewayProcess | None = None
        self._common = common

    def _settings(self) -> dict[str, Any]:
        return {
            "instance": "proof",
            "data_dir": str(self.folder / "data"),
            "mqtt": {
                "brokers": [
                    {
                        "host": "127.0.0.1",
                        "port": self.mosquitto.port,
                        "tls": {"ca_file": str(self.mosquitto.ca_file)},
                        "username": "gateway",
                        "password_file": str(self.mosquitto.password_file("gateway")),
                    }
                ]
            },
            "sinks": {
                "influxdb": {
                    "enabled": True,
                    "version": "1",
                    "url": self.influx.url,
                    "bucket": "iot_data",
                },
                "kafka": {"enabled": True, "bootstrap_servers": self.kafka.bootstrap},
                "lake": {"enabled": False},
            },
            "detect": {"checkpoint_every": 2.0},
            "admin": {"port": free_port()},
            "log": {"format": "json"},
        }

    def start(self) -> GatewayProcess:
        config = self.folder / "setup.yaml"
        config.write_text(yaml.safe_dump(self.settings))
        command = [sys.executable, "-m", "greenlang_iot", "setup", "--config", str(config)]
        subprocess.run(command, check=True, capture_output=True)
        self.gateway = GatewayProcess(self.folder, self.settings, self.registry)
        self.gateway.wait_ready()
        return self.gateway

    def publish(self) -> Any:
        manifest = self.folder / "manifest.jsonl"
        return simulate(
            {
                **self._common,
                "--seconds": SECONDS,
                "--host": "127.0.0.1",
                "--port": self.mosquitto.port,
                "--tls-ca": self.mosquitto.ca_file,
                "--username": "simulator",
                "--password-file": self.mosquitto.password_file("simulator"),
                "--manifest": manifest,
            }
        )

    def manifest(self) -> Manifest:
        return read(self.folder / "manifest.jsonl")

    def wait_settled(self, timeout: float = 180.0) -> None:
        """Until the gateway has nothing unacknowledged and nothing spooled, twice in a row."""
        assert self.gateway is not None
        gateway = self.gateway
        calm = 0

        def settled() -> bool:
            nonlocal calm
            status, body = gateway.get("/status")
            sinks = body.get("sinks", {}).values()
            busy = sum(
                (s.get("spool_records") or 0) + (s.get("queue_readings") or 0) for s in sinks
            )
            waiting = sum(s["messages_unacked"] or 0 for s in body.get("shards", []))
            counts = body.get("counts", {})
            acked = counts.get("acks_sent", 0)
            calm = calm + 1 if status == 200 and not busy and not waiting and acked else 0
            return calm > 25

        gateway.wait(settled, timeout, "settled")

    # ---- independent readers ----------------------------------------------------------------------

    def kafka_records(self, topic: str) -> list[tuple[int, bytes, dict[str, Any]]]:
        """(partition, key, value) of every record."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.kafka.bootstrap,
                "group.id": "proof",
                "enable.auto.commit": False,
            }
        )
        found = []
        partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
        for partition in partitions:
            at = TopicPartition(topic, partition, 0)
            _, high = consumer.get_watermark_offsets(at, timeout=20)
            consumer.assign([at])
            position = 0
            while position < high:
                for message in consumer.consume(min(high - position, 10_000), timeout=20):
                    assert message.error() is None, message.error()
                    position = message.offset() + 1
                    found.append((partition, message.key(), json.loads(message.value())))
        consumer.close()
        return found

    def kafka_readings(self) -> list[Reading]:
        return [
            Reading(v["device"], v["metric"], v["ts"], float(v["value"]), v.get("seq"))
            for _, _, v in self.kafka_records("iot.readings")
        ]

    def influx_readings(self) -> Iterator[Reading]:
        for row in self.influx.query("SELECT * FROM telemetry", "iot_data"):
            for name, value in row.items():
                ours = name not in ("name", "time", "org", "site", "device", "type")
                if ours and not name.endswith("_score") and value is not None:
                    yield Reading(row["device"], name, int(row["time"]), float(value), None)

    def kafka_alerts(self) -> list[FoundAlert]:
        seen = {}
        for _, _, value in self.kafka_records("iot.alerts"):
            if value["state"] == "open":
                seen[value["transition_id"]] = value
        return [FoundAlert(v["device"], v["metric"], v["rule"], v["opened"]) for v in seen.values()]

    def check(self) -> tuple[Reconciliation, Reconciliation]:
        """Kafka with seq, InfluxDB without: both must reconcile."""
        manifest = self.manifest()
        letters = list(read_dead_letters(self.folder / "data" / "dead-letter"))
        in_kafka = reconcile(manifest, self.kafka_readings(), letters, self.kafka_alerts())
        in_influx = reconcile(
            manifest, self.influx_readings(), letters, None, with_seq=False, one_value=True
        )
        for name, result in (("kafka", in_kafka), ("influxdb", in_influx)):
            print(f"\n{name}: {json.dumps(result.as_dict(), default=str)}")
        assert in_kafka.ok, in_kafka.as_dict()
        assert in_influx.ok, in_influx.as_dict()
        return in_kafka, in_influx

    def close(self) -> None:
        if self.gateway is not None:
            self.gateway.end()
        self.kafka.stop()
        self.influx.stop()
        self.mosquitto.stop()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def during(publisher: Any, seconds: float, act: Callable[[], None]) -> None:
    """`act` when the publisher has run for so long."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        assert publisher.poll() is None, "the publisher ended too early"
        time.sleep(0.05)  # the load is meant to run for a while
    act()


def test_everything_published_is_in_both_sinks(site: Site) -> None:
    gateway = site.start()
    counts = finished(site.publish(), SECONDS + 120)
    site.wait_settled()
    # where a machine stands still for seconds, everybody is silent: so many alerts take their time
    gateway.wait(lambda: delivered(site.folder / "data"), 180, "alerts delivered")
    summary = gateway.stop()
    in_kafka, _ = site.check()

    manifest = site.manifest()
    assert counts["published"] == manifest.confirmed == len(manifest.messages)
    assert summary["received_messages"] == summary["acked"] == counts["published"]
    assert in_kafka.repeated == 0
    # what was injected was alerted; how many were missed or false is reported by `check`
    assert in_kafka.anomalies >= 5
    assert in_kafka.missed <= 1
    # a machine that stands still for seconds makes everybody silent, and that is true then
    loud = [alert for alert in site.kafka_alerts() if alert.rule != "silence"]
    assert reconcile(manifest, (), None, loud).false_alerts <= DEVICES * 0.05

    # every record's partition is another client's choice for its key
    directory = load(site.registry)
    devices = {directory.device[i] for i in range(directory.n_devices)}
    for partition, key, value in site.kafka_records("iot.readings"):
        assert key.decode() == value["device"] in devices
        assert partition == murmur2(key) % 12

    # every dead letter has the bytes that were published
    bad = {m.payload for m in manifest.messages if m.rejects}
    letters = list(read_dead_letters(site.folder / "data" / "dead-letter"))
    assert {letter.payload for letter in letters} == bad


def test_a_shard_killed_half_way_loses_nothing(site: Site) -> None:
    gateway = site.start()
    publisher = site.publish()
    victims: list[int] = []

    def kill() -> None:
        victims.extend(gateway.shard_pids())
        assert len(victims) == 2
        os.kill(victims[0], signal.SIGKILL)

    during(publisher, SECONDS / 2, kill)
    finished(publisher, SECONDS + 120)
    gateway.wait_ready()
    assert len(set(gateway.shard_pids()) - set(victims)) == 1
    site.wait_settled()
    gateway.stop()
    site.check()


@pytest.mark.parametrize("victim", ["kafka", "influxdb"])
def test_a_sink_away_for_20_seconds(site: Site, victim: str) -> None:
    """Readiness and metrics tell the truth in between; afterwards everything is there."""
    gateway = site.start()
    server: Any = site.kafka if victim == "kafka" else site.influx
    publisher = site.publish()
    during(publisher, 3.0, server.stop)
    stopped = time.monotonic()
    gateway.wait(lambda: gateway.get("/readyz")[0] == 503, 60, "not ready")
    status, body = gateway.get("/readyz")
    assert status == 503
    assert all(f"required sink {victim} is down" in reason for reason in body["reasons"])
    gateway.wait(
        lambda: (gateway.get("/status")[1]["sinks"][victim]["spool_records"] or 0) > 0,
        60,
        "spooling",
    )
    # each shard notices it by itself, with the first chunk that it sends
    for shard in range(2):
        down = f'greenlang_iot_sink_up{{shard="{shard}",sink="{victim}"}} 0.0'
        gateway.wait(lambda line=down: line in gateway.metrics(), 60, down)
    while publisher.poll() is None and time.monotonic() - stopped < 20.0:
        time.sleep(0.05)  # the load is meant to run for a while
    server.start()
    finished(publisher, SECONDS + 120)
    gateway.wait_ready()
    site.wait_settled()
    for shard in range(2):
        assert f'greenlang_iot_sink_up{{shard="{shard}",sink="{victim}"}} 1.0' in gateway.metrics()
    gateway.stop()
    site.check()


def murmur2(key: bytes) -> int:
    """The partition hash of Kafka's Java client (positive), written from its description."""
    m, h = 0x5BD1E995, 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i : i + 4], "little") * m & 0xFFFFFFFF
        h = h * m & 0xFFFFFFFF ^ (k ^ k >> 24) * m & 0xFFFFFFFF
    rest = key[whole:]
    if rest:
        h ^= int.from_bytes(rest, "little")
        h = h * m & 0xFFFFFFFF
    h = (h ^ h >> 13) * m & 0xFFFFFFFF
    return (h ^ h >> 15) & 0x7FFFFFFF
