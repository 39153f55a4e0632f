"""The topics that setup makes on a real broker."""

from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from tests.services.kafka_server import missing, start_kafka

from greenlang_iot.model.errors import GatewayError
from greenlang_iot.settings.model import KafkaSettings
from greenlang_iot.sinks.kafka_setup import KafkaSetup

REASON = missing()
pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]


async def test_setup_makes_the_topics_once_and_repairs_them(tmp_path: Path) -> None:
    server = start_kafka(tmp_path / "kafka")
    try:
        settings = KafkaSettings(bootstrap_servers=server.bootstrap)
        setup = KafkaSetup(settings)
        plan = await setup.plan()
        assert [p.create for p in plan] == [True] * 4
        admin = AdminClient({"bootstrap.servers": server.bootstrap})
        assert "iot.readings" not in admin.list_topics(timeout=20).topics, "plan changes nothing"

        assert await setup.apply() == plan
        assert not any(p.changes or p.warnings for p in await setup.plan())
        assert not any(p.changes for p in await setup.apply())

        topics = admin.list_topics(timeout=20).topics
        assert {name: len(topics[name].partitions) for name in topics} == {
            "iot.readings": 12,
            "iot.alerts": 12,
            "iot.alerts.state": 1,
            "iot.deadletter": 1,
        }
        readings = config(admin, "iot.readings")
        assert readings["retention.ms"] == str(30 * 86_400_000)
        assert readings["message.timestamp.type"] == "CreateTime"
        assert readings["message.timestamp.after.max.ms"] == str(2**63 - 1)
        assert config(admin, "iot.alerts.state")["cleanup.policy"] == "compact"

        other = settings.model_copy(update={"retention": 3_600.0, "partitions": 14})
        entry = ConfigEntry("segment.ms", "600000", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource("topic", "iot.readings", incremental_configs=[entry])
        for done in admin.incremental_alter_configs([resource]).values():
            done.result(20)
        changed = {p.name: p for p in await KafkaSetup(other).plan()}
        assert changed["iot.readings"].partitions == 14
        assert changed["iot.readings"].config == {"retention.ms": ("2592000000", "3600000")}
        assert not changed["iot.alerts.state"].changes
        await KafkaSetup(other).apply()
        assert not any(p.changes for p in await KafkaSetup(other).plan())
        readings = config(admin, "iot.readings")
        assert readings["retention.ms"] == "3600000"
        assert readings["segment.ms"] == "600000", "what others set is kept"

        narrow = await KafkaSetup(settings).plan()
        assert "cannot be removed" in " ".join(narrow[0].lines())
        assert narrow[0].partitions == 0
    finally:
        server.stop()


async def test_setup_without_a_broker_is_one_sentence() -> None:
    setup = KafkaSetup(KafkaSettings(bootstrap_servers="127.0.0.1:1", timeout=2.0))
    with pytest.raises(GatewayError, match=r"Kafka at 127\.0\.0\.1:1"):
        await setup.plan()


def config(admin: AdminClient, topic: str) -> dict[str, str]:
    (found,) = admin.describe_configs([ConfigResource("topic", topic)]).values()
    return {name: entry.value for name, entry in found.result(20).items()}
