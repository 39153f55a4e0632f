"""Alerts reconcile by id: what Kafka, InfluxDB, the lake and MQTT hold after the gateway was killed twice.

The truth is what was published: ids of alerts are computed here from it, and the number of transitions is
known. Readers are independent of the gateway, apart from the lake's.
"""

import asyncio
import hashlib
import json
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import mqtt5
import orjson
import pytest
from confluent_kafka import Consumer, TopicPartition
from tests.fakes.mqtt_client import RawClient
from tests.fakes.ports import free_port
from tests.services import influxdb1, kafka_server
from tests.services.gateway_process import GatewayProcess

from greenlang_iot.settings.model import InfluxSettings, KafkaSettings
from greenlang_iot.simulate.broker import Broker
from greenlang_iot.sinks.influx_setup import influx_setup
from greenlang_iot.sinks.kafka_setup import KafkaSetup
from greenlang_iot.sinks.lake_query import LakeReader

pytestmark = [
    pytest.mark.services,
    *(
        pytest.mark.skipif(bool(why), reason=str(why))
        for why in (kafka_server.missing(), influxdb1.missing())
    ),
]

DEVICES, RESOLVED = 40, 25
RULES = "version: 1\nrules:\n  - {name: hot, range: {above: 90, clear: 85}, severity: critical}\n"
REGISTRY = {
    "version": 1,
    "types": {"pump": {"metrics": {"flow": {"unit": "m3/h"}}}},
    "devices": [
        {"id": f"pump-{i:02d}", "org": "acme", "site": f"site-{i % 4}", "type": "pump"}
        for i in range(DEVICES)
    ],
}


def site(i: int) -> str:
    return f"site-{i % 4}"


def alert_id(i: int, opened_ns: int) -> str:
    """As docs/contracts.md says: a hash of rule, scope and the event time of the opening."""
    text = "\0".join(("hot", "acme", site(i), f"pump-{i:02d}", "flow", str(opened_ns)))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class Plant:
    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder, self.broker = folder, broker
        for name in ("kafka", "influxdb"):
            (folder / name).mkdir()
        self.kafka = kafka_server.start_kafka(folder / "kafka")
        self.influx = influxdb1.start_influxdb1(folder / "influxdb")
        (folder / "rules.yaml").write_text(RULES)
        (folder / "registry.json").write_bytes(orjson.dumps(REGISTRY))
        self.port = free_port()
        self.influx_settings = {"version": "1", "url": self.influx.url, "bucket": "iot_data"}

    async def start(self) -> None:
        setup = influx_setup(InfluxSettings(enabled=True, **self.influx_settings))  # type: ignore[arg-type]
        await setup.apply()
        await setup.close()
        kafka = KafkaSettings(enabled=True, bootstrap_servers=self.kafka.bootstrap)
        await KafkaSetup(kafka).apply()
        settings: dict[str, Any] = {
            "instance": "plant",
            "data_dir": str(self.folder / "data"),
            "mqtt": {
                "brokers": [{"host": "127.0.0.1", "port": self.broker.port}],
                "discovery": False,
            },
            "sinks": {
                "influxdb": {"enabled": True, **self.influx_settings},
                "kafka": {"enabled": True, "bootstrap_servers": self.kafka.bootstrap},
                "lake": {"enabled": True},
            },
            "alerts": {"rules_file": str(self.folder / "rules.yaml"), "group_devices": 0},
            "admin": {"port": self.port},
        }
        self.gateway = GatewayProcess(self.folder, settings, self.folder / "registry.json")
        await asyncio.to_thread(self.gateway.wait_ready)

    def told(self, state: str) -> int:
        _, found = self.gateway.get(f"/api/v1/alerts?rule=hot&state={state}&limit=1")
        return int(found.get("total", 0))

    async def until_told(self, state: str, count: int) -> None:
        await asyncio.to_thread(
            self.gateway.wait, lambda: self.told(state) >= count, 60, f"{count} {state}"
        )

    async def kill(self) -> None:
        """SIGKILL for the parent; the shards die with it. Then the next start."""
        await asyncio.to_thread(self.gateway.kill_all)
        self.gateway.start()

    def acknowledge(self, alert: str) -> None:
        token = (self.folder / "data" / "admin-token").read_text().strip()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/v1/alerts/{alert}/ack",
            json.dumps({"by": "Ada", "comment": "seen"}).encode(),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["state"] == "acknowledged"

    # ---- readers ------------------------------------------------------------------------------------

    def in_kafka(self, topic: str) -> list[tuple[str, dict[str, Any] | None]]:
        """(key, document) of every record, in the order of each partition."""
        consumer = Consumer({"bootstrap.servers": self.kafka.bootstrap, "group.id": "reader"})
        found = []
        for partition in consumer.list_topics(topic, timeout=20).topics[topic].partitions:
            at = TopicPartition(topic, partition, 0)
            _, high = consumer.get_watermark_offsets(at, timeout=20)
            consumer.assign([at])
            position = 0
            while position < high:
                for message in consumer.consume(high - position, timeout=20):
                    position = message.offset() + 1
                    value = message.value()
                    found.append((message.key().decode(), json.loads(value) if value else None))
        consumer.close()
        return found

    def in_influxdb(self) -> set[str]:
        rows = self.influx.query("SELECT alert_id, number FROM alerts", "iot_data")
        return {f"{row['alert_id']}-{int(row['number'])}" for row in rows}

    def in_lake(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = (
            LakeReader(self.folder / "data" / "lake")
            .query("SELECT * EXCLUDE (time) FROM alerts WHERE rule = 'hot'")
            .to_pylist()
        )
        return rows

    async def retained(self) -> list[dict[str, Any]]:
        client = await RawClient.connected(self.broker.port, "reader")
        await client.subscribe("greenlang/+/+/+/alert/+")
        client.send(mqtt5.PingReqPacket())
        found = []
        while isinstance(packet := await client.receive(), mqtt5.PublishPacket):
            found.append(orjson.loads(packet.payload))
        await client.close()
        return found

    def close(self) -> None:
        self.gateway.end()
        self.kafka.stop()
        self.influx.stop()


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    broker = Broker()
    await broker.start()
    made = await asyncio.to_thread(Plant, tmp_path, broker)
    await made.start()
    yield made
    await asyncio.to_thread(made.close)
    await broker.stop()


async def test_ids_agree_everywhere_after_two_kills(plant: Plant) -> None:
    device = await RawClient.connected(plant.broker.port, "devices")

    async def say(i: int, ts_ns: int, flow: float) -> None:
        body = orjson.dumps({"ts": ts_ns, "values": {"flow": flow}})
        await device.publish(f"greenlang/acme/{site(i)}/pump-{i:02d}/telemetry", body)

    begun = time.time_ns()
    opened = {i: begun + i * 1_000_000 for i in range(DEVICES)}
    for i, ts_ns in opened.items():
        await say(i, ts_ns, 95.0 + i)
        if i == DEVICES // 2:
            await plant.until_told("open", 1)
            await plant.kill()  # in the middle of the openings
    await asyncio.to_thread(plant.gateway.wait_ready)
    await plant.until_told("open", DEVICES)
    acknowledged = alert_id(0, opened[0])
    await asyncio.to_thread(plant.acknowledge, acknowledged)
    for i in range(RESOLVED):
        await say(i, opened[i] + 60_000_000_000 - DEVICES * 1_000_000, 50.0)
        if i == RESOLVED // 2:
            await plant.until_told("resolved", 1)
            await plant.kill()  # and of the ends
    await asyncio.to_thread(plant.gateway.wait_ready)
    await plant.until_told("resolved", RESOLVED)
    await asyncio.to_thread(plant.gateway.stop)

    wanted = {alert_id(i, at): 2 if i < RESOLVED else 1 for i, at in opened.items()}
    wanted[acknowledged] += 1
    ids = {f"{alert}-{number + 1}" for alert, last in wanted.items() for number in range(last)}
    last = {alert_id(i, at): "resolved" if i < RESOLVED else "open" for i, at in opened.items()}

    records = [value for _, value in await asyncio.to_thread(plant.in_kafka, "iot.alerts") if value]
    records = [value for value in records if value["rule"] == "hot"]
    once: dict[str, dict[str, Any]] = {}
    for value in records:  # at least once on the wire, once per id, the same each time
        assert once.setdefault(value["transition_id"], value) == value
    assert set(once) == ids
    state: dict[str, Any] = dict(await asyncio.to_thread(plant.in_kafka, "iot.alerts.state"))
    assert {key: value and value["state"] for key, value in state.items() if key in wanted} == {
        key: "open" if how == "open" else None  # a tombstone for what is over
        for key, how in last.items()
    }
    assert once[f"{acknowledged}-2"]["state"] == "acknowledged"
    assert {row["transition_id"] for row in plant.in_lake()} == ids
    assert {
        row["transition_id"]: (row["state"], row["value"], row["at"]) for row in plant.in_lake()
    } == {key: (v["state"], v["value"], v["at"]) for key, v in once.items()}
    hot = {row for row in await asyncio.to_thread(plant.in_influxdb) if row[:16] in wanted}
    assert hot == ids
    retained = [d for d in await plant.retained() if d["rule"] == "hot"]
    assert {d["alert_id"] for d in retained} == {
        alert for alert, state_ in last.items() if state_ == "open"
    }
    print(f"\n{len(ids)} transitions of {len(wanted)} alerts; {len(records)} records in iot.alerts")
