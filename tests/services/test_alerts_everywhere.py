"""One alert through its life, seen by everybody who may look: HTTP, `alerts tail`, MQTT, Kafka, the lake.

Real Mosquitto and Kafka; MQTT is read by `mosquitto_sub`, Kafka by confluent-kafka.
"""

import asyncio
import json
import shutil
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer, TopicPartition
from tests.fakes.ports import free_port
from tests.services import kafka_server, mosquitto_server
from tests.services.gateway_process import GatewayProcess

from greenlang_iot.settings.model import KafkaSettings
from greenlang_iot.sinks.kafka_setup import KafkaSetup
from greenlang_iot.sinks.lake_query import LakeReader

pytestmark = [
    pytest.mark.services,
    *(
        pytest.mark.skipif(bool(why), reason=str(why))
        for why in (
            kafka_server.missing(),
            mosquitto_server.missing(),
            "" if shutil.which("mosquitto_sub") else "needs mosquitto_sub (make services)",
        )
    ),
]

WITHIN = 60.0
"""Seconds until a transition is everywhere; on a machine that is well it takes a fraction of one."""
TELEMETRY = "greenlang/acme/north/pump-1/telemetry"
LIFE = [
    ("open", []),
    ("acknowledged", []),
    ("acknowledged", ["silenced"]),
    ("resolved", ["silenced"]),
]
"""(state, flags) of each transition."""
RULES = "version: 1\nrules:\n  - {name: hot, range: {above: 90, clear: 85}, severity: critical}\n"
REGISTRY = {
    "version": 1,
    "types": {"pump": {"metrics": {"flow": {"unit": "m3/h"}}}},
    "devices": [{"id": "pump-1", "org": "acme", "site": "north", "type": "pump"}],
}


class Listener:
    """A command that prints a line for each transition it hears of."""

    def __init__(self, *command: str) -> None:
        self._command = command
        self.heard: list[str] = []
        self._more = asyncio.Condition()

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdout=asyncio.subprocess.PIPE, limit=1 << 20
        )
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._more:
                self.heard.append(line.decode().rstrip("\n"))
                self._more.notify_all()

    async def until(self, count: int) -> list[str]:
        """The lines, when there are so many."""
        async with asyncio.timeout(WITHIN), self._more:
            await self._more.wait_for(lambda: len(self.heard) >= count)
        return self.heard

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()
        await self._reading


class Stage:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mosquitto = mosquitto_server.MosquittoServer(folder / "mosquitto")
        self.kafka = kafka_server.start_kafka(folder / "kafka")
        (folder / "rules.yaml").write_text(RULES)
        (folder / "registry.json").write_bytes(orjson.dumps(REGISTRY))
        self.port = free_port()
        settings: dict[str, Any] = {
            "instance": "stage",
            "data_dir": str(folder / "data"),
            "mqtt": {
                "brokers": [{"host": "127.0.0.1", "port": self.mosquitto.port}],
                "discovery": False,
            },
            "sinks": {"kafka": {"enabled": True, "bootstrap_servers": self.kafka.bootstrap}},
            "alerts": {"rules_file": str(folder / "rules.yaml")},
            "detect": {"second_stage": {"enabled": False}},
            "admin": {"port": self.port},
            "runtime": {"shards": 1},
        }
        self.kafka_settings = KafkaSettings(enabled=True, bootstrap_servers=self.kafka.bootstrap)
        self._settings = settings

    async def start(self) -> None:
        await KafkaSetup(self.kafka_settings).apply()
        self.gateway = GatewayProcess(self.folder, self._settings, self.folder / "registry.json")
        await asyncio.to_thread(self.gateway.wait_ready)

    async def flow(self, value: float) -> None:
        body = orjson.dumps({"ts": time.time_ns(), "values": {"flow": value}}).decode()
        command = ["mosquitto_pub", "-p", str(self.mosquitto.port), "-q", "1", "-t", TELEMETRY]
        done = await asyncio.create_subprocess_exec(*command, "-m", body)
        assert await done.wait() == 0

    def listener(self, *options: str) -> Listener:
        """mosquitto_sub on every alert: the retain flag, the topic, the payload."""
        where = ["-p", str(self.mosquitto.port), "-t", "greenlang/+/+/+/alert/+"]
        return Listener("mosquitto_sub", *where, "-F", "%r %t %p", *options)

    def tail(self) -> Listener:
        broker = ["--broker", "127.0.0.1", "--port", str(self.mosquitto.port), "--json"]
        return Listener(sys.executable, "-m", "greenlang_iot", "alerts", "tail", *broker)

    def act(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        token = (self.folder / "data" / "admin-token").read_text().strip()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/v1/{path}",
            orjson.dumps(body),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            document: dict[str, Any] = json.load(answer)
        return document

    async def over_http(self, count: int) -> list[dict[str, Any]]:
        """The transitions of the one alert, when there are so many."""

        def transitions() -> list[dict[str, Any]]:
            alerts = self.gateway.get("/api/v1/alerts")[1]["alerts"]
            assert len(alerts) <= 1
            if not alerts:
                return []
            found: list[dict[str, Any]] = self.gateway.get(
                f"/api/v1/alerts/{alerts[0]['alert_id']}"
            )[1]["transitions"]
            return found

        await asyncio.to_thread(
            self.gateway.wait, lambda: len(transitions()) >= count, WITHIN, f"{count} transitions"
        )
        return await asyncio.to_thread(transitions)

    def in_kafka(self, topic: str, count: int) -> list[tuple[str, dict[str, Any] | None]]:
        """(key, document) of the first records, when there are so many."""
        consumer = Consumer({"bootstrap.servers": self.kafka.bootstrap, "group.id": "reader"})
        partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        found: list[tuple[str, dict[str, Any] | None]] = []
        deadline = time.monotonic() + WITHIN
        while len(found) < count:
            assert time.monotonic() < deadline, f"{topic} has {len(found)} records: {found}"
            for message in consumer.consume(count, timeout=0.5):
                value = message.value()
                found.append((message.key().decode(), json.loads(value) if value else None))
        consumer.close()
        return found

    def in_lake(self) -> list[dict[str, Any]]:
        query = "SELECT alert_id, transition_id, state FROM alerts ORDER BY number"
        rows: list[dict[str, Any]] = (
            LakeReader(self.folder / "data" / "lake").query(query).to_pylist()
        )
        return rows

    def close(self) -> None:
        if hasattr(self, "gateway"):
            self.gateway.end()
        self.kafka.stop()
        self.mosquitto.stop()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    made = await asyncio.to_thread(Stage, tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await asyncio.to_thread(made.close)


async def test_one_alert_has_one_id_everywhere_through_its_life(stage: Stage) -> None:
    mqtt, tail = stage.listener("-q", "1"), stage.tail()
    await mqtt.start()
    await tail.start()
    try:
        # `alerts tail` says nothing before its first alert: the retained one is its first line then.
        await stage.flow(95.0)
        opened = (await stage.over_http(1))[0]
        alert_id = opened["alert_id"]
        await mqtt.until(1)
        await tail.until(1)
        retained = stage.listener("--retained-only", "-C", "1", "-W", str(int(WITHIN)))
        await retained.start()
        (line,) = await retained.until(1)
        await retained.close()
        assert line.startswith(f"1 greenlang/acme/north/pump-1/alert/{alert_id} ")
        assert json.loads(line.split(" ", 2)[2]) == opened

        acknowledged = stage.act(f"alerts/{alert_id}/ack", {"by": "Ada", "comment": "on my way"})
        assert acknowledged["alert_id"] == alert_id
        await mqtt.until(2)
        stage.act("silences", {"match": {"device": "pump-1"}, "reason": "works", "duration": 600})
        await mqtt.until(3)
        await stage.flow(50.0)
        transitions = await stage.over_http(4)
        # the end, and then the empty message that takes the retained one away
        lines = await mqtt.until(5)
        told = await tail.until(4)
        records = await asyncio.to_thread(stage.in_kafka, "iot.alerts", 4)
        states = await asyncio.to_thread(stage.in_kafka, "iot.alerts.state", 4)
    finally:
        await mqtt.close()
        await tail.close()

    assert [(t["state"], t["flags"]) for t in transitions] == LIFE
    assert {t["alert_id"] for t in transitions} == {alert_id}
    topic = f"greenlang/acme/north/pump-1/alert/{alert_id}"
    assert {line.split(" ", 2)[1] for line in lines} == {topic}
    assert [json.loads(line.split(" ", 2)[2] or "null") for line in lines] == [*transitions, None]
    assert [json.loads(line) for line in told] == transitions
    assert records == [("pump-1", t) for t in transitions]
    assert states == [(alert_id, t) for t in transitions[:3]] + [(alert_id, None)]
    await asyncio.to_thread(stage.gateway.stop)
    assert stage.in_lake() == [
        {name: t[name] for name in ("alert_id", "transition_id", "state")} for t in transitions
    ]
