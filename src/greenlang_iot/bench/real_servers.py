"""What real servers hold, asked of them and not of the gateway."""

import asyncio
import json
import urllib.parse
import urllib.request

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

TIMEOUT = 60.0


def kafka_records(bootstrap: str, topic: str) -> int:
    """Records in a topic that exists, by the offsets of its partitions."""
    return asyncio.run(_kafka_records(bootstrap, topic))


async def _kafka_records(bootstrap: str, topic: str) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        (described,) = await admin.describe_topics([topic])
    finally:
        await admin.close()
    places = [TopicPartition(topic, one["partition"]) for one in described["partitions"]]
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        ends = await consumer.end_offsets(places)
        return int(sum(ends.values()))
    finally:
        await consumer.stop()


def influxdb_values(url: str, database: str, measurement: str, field: str) -> int:
    """Values of a field of a measurement in an InfluxDB 1.x."""
    statement = f'SELECT count("{field}") FROM "{measurement}"'  # noqa: S608 (names of ours)
    asked = {"db": database, "q": statement}
    data = urllib.parse.urlencode(asked).encode()
    with urllib.request.urlopen(f"{url.rstrip('/')}/query", data, TIMEOUT) as answer:  # noqa: S310
        (result,) = json.load(answer)["results"]
    return int(result["series"][0]["values"][0][1]) if "series" in result else 0
