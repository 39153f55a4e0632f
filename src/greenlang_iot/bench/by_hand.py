"""The gateway as one would write it by hand: aiomqtt, orjson, aiohttp, aiokafka, a message at a time.

`python -m greenlang_iot.bench.by_hand MQTT_PORT CA_FILE INFLUXDB_PORT KAFKA_PORT`: runs until SIGTERM. No
validation, no scores, no duplicates, and it acknowledges before anything is written.
"""

import asyncio
import contextlib
import ssl
import sys

import aiohttp
import aiomqtt
import orjson
from aiokafka import AIOKafkaProducer

LINES = 5_000
"""Lines of one write, or what came in LINGER seconds."""
LINGER = 0.1


class Lines:
    """Lines on their way to InfluxDB."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._lines: list[str] = []

    async def add(self, line: str) -> None:
        self._lines.append(line)
        if len(self._lines) >= LINES:
            await self.flush()

    async def flush(self) -> None:
        if self._lines:
            body = "\n".join(self._lines).encode() + b"\n"
            self._lines.clear()
            async with self._session.post(self._url, data=body) as answer:
                answer.raise_for_status()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LINGER)
            await self.flush()


async def run(mqtt_port: int, ca_file: str, influxdb_port: int, kafka_port: int) -> None:
    """Everything of every message."""
    url = f"http://127.0.0.1:{influxdb_port}/api/v2/write?bucket=iot_data&precision=ns"
    producer = AIOKafkaProducer(
        bootstrap_servers=f"127.0.0.1:{kafka_port}", enable_idempotence=True, linger_ms=5
    )
    client = aiomqtt.Client(
        "127.0.0.1",
        mqtt_port,
        tls_context=ssl.create_default_context(cafile=ca_file),
        protocol=aiomqtt.ProtocolVersion.V5,
    )
    async with aiohttp.ClientSession() as session, producer, client:
        lines = Lines(session, url)
        flushing = asyncio.ensure_future(lines.run())
        await client.subscribe("greenlang/+/+/+/telemetry", qos=1)
        async for message in client.messages:
            _, org, site, device, _ = message.topic.value.split("/")
            reading = orjson.loads(message.payload)
            metric, value, ts = reading["metric"], reading["value"], reading["ts"] * 1_000_000
            await lines.add(
                f"telemetry,device={device},org={org},site={site},type=bench {metric}={value} {ts}"
            )
            record = {**reading, "org": org, "site": site, "device": device, "ts": ts}
            await producer.send("iot.readings", orjson.dumps(record), device.encode())
        flushing.cancel()


if __name__ == "__main__":
    port, ca, *sinks = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(int(port), ca, *map(int, sinks)))
