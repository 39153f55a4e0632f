"""doctor, and dead letters that lie in Kafka, against a real broker."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiokafka import AIOKafkaConsumer
from tests.services.kafka_server import missing, start_kafka
from typer.testing import CliRunner, Result

from greenlang_iot.cli.main import app
from greenlang_iot.model.outcomes import Refused
from greenlang_iot.runtime.sinks import kafka_publisher
from greenlang_iot.settings.load import load
from greenlang_iot.sinks.deadletter import DeadLetterWriter

REASON = missing()
pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]


async def run(*arguments: object) -> Result:
    words = [str(a) for a in arguments]
    return await asyncio.to_thread(CliRunner().invoke, app, words, catch_exceptions=False)


async def topics(config: Path) -> dict[str, dict[str, Any]]:
    result = await run("doctor", "--config", config, "--devices-file", "nowhere.json", "--json")
    found = json.loads(result.stdout)["findings"]
    return {f["subject"]: f for f in found if f["subject"].startswith("kafka")}


async def test_doctor_and_dead_letters_in_kafka(tmp_path: Path) -> None:
    server = await asyncio.to_thread(start_kafka, tmp_path / "kafka")
    config = tmp_path / "c.yaml"
    kafka: dict[str, Any] = {"enabled": True, "bootstrap_servers": server.bootstrap}

    def configure() -> None:
        document = {
            "data_dir": str(tmp_path / "data"),
            "mqtt": {"brokers": [{"host": "127.0.0.1", "port": 1}]},
            "sinks": {"kafka": kafka, "dead_letter": {"target": "kafka"}},
        }
        config.write_text(yaml.safe_dump(document))

    try:
        configure()
        found = await topics(config)
        assert found["kafka"]["state"] == "ok"
        assert found["kafka: topic iot.readings"]["said"] == "it does not exist"
        assert (await run("setup", "--config", config, "--json")).exit_code == 0
        assert {f["state"] for f in (await topics(config)).values()} == {"ok"}
        kafka |= {"replication_factor": 3, "partitions": 14}
        configure()
        found = await topics(config)
        assert found["kafka: topic iot.readings"]["state"] == "failed"
        assert "fewer partitions than the settings say (14)" in str(found)
        assert "has replication factor 1, the settings say 3" in str(found)
        kafka |= {"replication_factor": 1, "partitions": 12}
        configure()

        settings = load(config).settings
        publish = kafka_publisher(settings)
        writer = DeadLetterWriter(
            settings.sinks.dead_letter, tmp_path / "data" / "dead-letter" / "shard-0", publish
        )
        reading = json.dumps({"v": 1, "device": "d1", "ts": 1_700_000_000_000_000_000}).encode()
        writer.submit_refused("kafka", [Refused(reading, "INVALID_RECORD"), Refused(b"?", "no")], 1)
        await writer.close()
        listed = (await run("dead-letter", "list", "--config", config, "--json")).stdout
        letters = [json.loads(line) for line in listed.splitlines()]
        assert [letter["sink"] for letter in letters] == ["kafka", "kafka"]
        done = await run("dead-letter", "replay", "--all", "--config", config, "--json")
        assert done.exit_code == 1
        document = json.loads(done.stdout)
        assert document["replayed"] == 1
        assert list(document["refused"].values()) == ["its bytes are no reading of schema v1"]

        consumer = AIOKafkaConsumer(
            "iot.readings", bootstrap_servers=server.bootstrap, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            record = await asyncio.wait_for(consumer.getone(), 60)
        finally:
            await consumer.stop()
        assert (record.key, record.value) == (b"d1", reading)
        assert record.timestamp == 1_700_000_000_000
    finally:
        await asyncio.to_thread(server.stop)
