"""The gateway as one would write it by hand: aiomqtt, orjson, aiohttp, aiokafka, a message at a time.

`python -m greenlang_iot.bench.by_hand [stock]`: a peer (see `peers`) that runs until SIGTERM; `stock`: with
influxdb-client's points and asynchronous client instead of lines and aiohttp. No validation, no scores, no
duplicates, and it acknowledges before anything is written.
"""

import asyncio
import contextlib
import os
import ssl
import sys

import aiohttp
import aiomqtt
import orjson
from aiokafka import AIOKafkaProducer
from influxdb_client import Point
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync

LINES = 5_000
"""Lines of one write, or what came in LINGER seconds."""
LINGER = 0.1


class Lines:
    """Lines on their way to InfluxDB."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url}/api/v2/write?bucket=iot_data&precision=ns"
        self._lines: list[str] = []

    async def add(self, tags: dict[str, str], metric: str, value: float, ts_ns: int) -> None:
        tags_ = ",".join(f"{name}={tag}" for name, tag in tags.items())
        self._lines.append(f"telemetry,{tags_} {metric}={value} {ts_ns}")
        if len(self._lines) >= LINES:
            await self.flush()

    async def flush(self) -> None:
        if self._lines:
            body = "\n".join(self._lines).encode() + b"\n"
            self._lines.clear()
            async with self._session.post(self._url, data=body) as answer:
                answer.raise_for_status()


class Points:
    """Points on their way to InfluxDB, as influxdb-client's guide has them."""

    def __init__(self, client: InfluxDBClientAsync) -> None:
        self._api = client.write_api()
        self._points: list[Point] = []

    async def add(self, tags: dict[str, str], metric: str, value: float, ts_ns: int) -> None:
        point = Point("telemetry").field(metric, value).time(ts_ns)
        for name, tag in tags.items():
            point.tag(name, tag)
        self._points.append(point)
        if len(self._points) >= LINES:
            await self.flush()

    async def flush(self) -> None:
        points, self._points = self._points, []
        if points:
            await self._api.write("iot_data", record=points)


async def flush_always(lines: Lines | Points) -> None:
    while True:
        await asyncio.sleep(LINGER)
        await lines.flush()


async def run(*, stock: bool) -> None:
    """Everything of every message."""
    url = f"http://127.0.0.1:{os.environ['BENCH_INFLUXDB_PORT']}"
    producer = AIOKafkaProducer(
        bootstrap_servers=f"127.0.0.1:{os.environ['BENCH_KAFKA_PORT']}",
        enable_idempotence=True,
        linger_ms=5,
    )
    client = aiomqtt.Client(
        "127.0.0.1",
        int(os.environ["BENCH_MQTT_PORT"]),
        tls_context=ssl.create_default_context(cafile=os.environ["BENCH_CA_FILE"]),
        protocol=aiomqtt.ProtocolVersion.V5,
    )
    points_to = InfluxDBClientAsync(url, "counting", "greenlang")
    async with aiohttp.ClientSession() as session, points_to, producer, client:
        lines = Points(points_to) if stock else Lines(session, url)
        flushing = asyncio.ensure_future(flush_always(lines))
        await client.subscribe("greenlang/+/+/+/telemetry", qos=1)
        async for message in client.messages:
            _, org, site, device, _ = message.topic.value.split("/")
            reading = orjson.loads(message.payload)
            ts = reading["ts"] * 1_000_000
            tags = {"device": device, "org": org, "site": site, "type": "bench"}
            await lines.add(tags, reading["metric"], reading["value"], ts)
            record = {**reading, "org": org, "site": site, "device": device, "ts": ts}
            await producer.send("iot.readings", orjson.dumps(record), device.encode())
        flushing.cancel()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(stock="stock" in sys.argv))
