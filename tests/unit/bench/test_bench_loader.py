"""The loader as a client sees it, in both versions of MQTT."""

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from greenlang_iot.bench import loader as bench_loader
from greenlang_iot.bench.loader import Load, Subscriber
from greenlang_iot.bench.loader import Loader as BenchLoader
from greenlang_iot.simulate.broker import Broker
from greenlang_iot.simulate.broker_router import BrokerOptions
from greenlang_iot.simulate.ca import loopback, server_context

DEVICES = 8


class Loader:
    """The process; `ask` gives its counts."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, ca_file: Path) -> None:
        self._process, self.port, self.ca_file = process, port, ca_file

    async def ask(self, what: str) -> dict[str, object]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n".encode())
        return json.loads(await self._process.stdout.readline())


@asynccontextmanager
async def started(load: Load) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The process and the port that it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "greenlang_iot.bench.loader", json.dumps(asdict(load)),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    yield process, int(await process.stdout.readline())
    process.terminate()
    await process.wait()


@pytest.fixture
async def loader(tmp_path: Path) -> AsyncIterator[Loader]:
    ca_file = loopback(tmp_path)[0]
    load = Load(str(tmp_path), DEVICES, 1_750_000_000_000, record=128)
    async with started(load) as (process, port):
        yield Loader(process, port, ca_file)


@pytest.mark.parametrize(
    ("version", "rate"),
    [(aiomqtt.ProtocolVersion.V5, 0), (aiomqtt.ProtocolVersion.V311, 2_000)],
    ids=["5", "3.1.1"],
)
async def test_messages_in_the_clients_version_until_all_are_acknowledged(
    loader: Loader, version: aiomqtt.ProtocolVersion, rate: int
) -> None:
    """As fast as the client's Receive Maximum lets it, where it can have one, and at a rate."""
    few = Properties(PacketTypes.CONNECT)
    few.ReceiveMaximum = DEVICES + 1
    async with aiomqtt.Client(
        "127.0.0.1",
        loader.port,
        protocol=version,
        properties=few if version is aiomqtt.ProtocolVersion.V5 else None,
        tls_context=ssl.create_default_context(cafile=loader.ca_file),
    ) as client:
        await client.subscribe("greenlang/+/+/+/telemetry", qos=1)
        await loader.ask(f"rate {rate}")
        await loader.ask("go")
        seen = []
        async for message in client.messages:
            seen.append((str(message.topic), json.loads(message.payload)))
            if len(seen) == 3 * DEVICES:
                break
        counts = await loader.ask("pause")
    assert {topic for topic, _ in seen} == {
        f"greenlang/acme/s{d % 4:02d}/d{d:05d}/telemetry" for d in range(DEVICES)
    }
    assert [reading["ts"] for _, reading in seen] == [
        seen[0][1]["ts"] + lap * (seen[DEVICES][1]["ts"] - seen[0][1]["ts"])
        for lap in range(3)
        for _ in range(DEVICES)
    ]
    assert counts["sent"] == counts["acked"]
    assert (counts["disorder"], counts["lost"], counts["subscribers"]) == (0, 0, 1)


async def test_it_publishes_to_a_real_broker_until_that_has_acknowledged_all(
    tmp_path: Path,
) -> None:
    ca_file, identity = loopback(tmp_path)
    options = BrokerOptions(users={"bench": "secret"})
    broker = Broker(tls=server_context(identity), options=options)
    port = await broker.start()
    load = Load(
        str(tmp_path), DEVICES, 1_750_000_000_000, record=128,
        broker=f"mqtts://bench:secret@127.0.0.1:{port}", ca_file=str(ca_file),
    )  # fmt: skip
    async with (
        aiomqtt.Client(
            "127.0.0.1",
            port,
            protocol=aiomqtt.ProtocolVersion.V5,
            username="bench",
            password="secret",
            tls_context=ssl.create_default_context(cafile=ca_file),
        ) as client,
        started(load) as (process, told),
    ):
        assert told == 0
        loader = Loader(process, port, ca_file)
        await client.subscribe("greenlang/+/+/+/telemetry", qos=1)
        await loader.ask("rate 500")
        await loader.ask("go")
        topics = set()
        async for message in client.messages:
            topics.add(str(message.topic))
            if len(topics) == DEVICES:
                break
        counts = await loader.ask("pause")
    assert topics == {f"greenlang/acme/s{d % 4:02d}/d{d:05d}/telemetry" for d in range(DEVICES)}
    assert counts["sent"] == counts["acked"] >= DEVICES
    assert (counts["disorder"], counts["lost"], counts["subscribers"]) == (0, 0, 2)
    await broker.stop()


class Sent:
    """A transport that keeps nothing."""

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def write(self, data: bytes) -> None:
        pass


@pytest.mark.parametrize("step", [1, 3, 4, 6, 1_000])
async def test_acknowledgements_are_in_order_wherever_the_stream_is_cut(step: int) -> None:
    subscriber = Subscriber(BenchLoader(Load("", DEVICES, 1_750_000_000_000)))
    subscriber.connection_made(Sent())  # type: ignore[arg-type]
    subscriber.version5 = True
    subscriber.take(list(range(DEVICES)))
    acks = b"".join(b"\x40\x02" + n.to_bytes(2) for n in range(1, 301))
    stream = acks[:400] + b"\xc0\x00" + acks[400:]  # a PINGREQ between them
    for at in range(0, len(stream), step):
        subscriber.data_received(stream[at : at + step])
    assert (subscriber.acked, subscriber.disorder) == (300, 0)
    subscriber.data_received(acks[:4])
    assert (subscriber.acked, subscriber.disorder) == (301, 1)


async def test_at_a_rate_a_message_is_sent_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(bench_loader, "time", SimpleNamespace(monotonic=lambda: now[0]))
    loader = BenchLoader(Load("", DEVICES, 1_750_000_000_000))
    loader.going, loader.rate = True, 4.0
    subscriber = Subscriber(loader)
    subscriber.connection_made(Sent())  # type: ignore[arg-type]
    subscriber.version5 = True
    subscriber.take(list(range(DEVICES)))
    subscriber.start()
    sent = [subscriber.sent]
    for later in (0.125, 0.25, 0.5, 1.25):
        now[0] = 100.0 + later
        subscriber.pump()
        sent.append(subscriber.sent)
    assert sent == [1, 1, 2, 3, 6]
    subscriber.data_received(b"".join(b"\x40\x02" + n.to_bytes(2) for n in range(1, 7)))
    assert loader.latencies == [(100.0, 1.25), (100.25, 1.0), (100.5, 0.75), (100.75, 0.5)]
