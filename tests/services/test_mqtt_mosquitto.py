"""The connection against a real Mosquitto: both versions, TCP and TLS, kept sessions."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import numpy as np
import pytest
from tests.fakes.mqtt_broker import Recorder
from tests.services.mosquitto_server import MosquittoServer, missing

from greenlang_iot.mqtt.transport import Connection
from greenlang_iot.settings.model import BatchSettings, BrokerSettings, TlsSettings
from greenlang_iot.simulate.ca import Authority

REASON = missing()
pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]
BOTH = pytest.mark.parametrize("protocol", ["5", "3.1.1"])
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def mosquitto(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[MosquittoServer]:
    server = MosquittoServer(tmp_path_factory.mktemp("mosquitto"), authority.server())
    yield server
    server.stop()


@asynccontextmanager
async def connected(
    port: int, client_id: str, handler: Recorder, *, retire: bool = False, **broker: object
) -> AsyncIterator[tuple[Connection, asyncio.Task[None]]]:
    connection = Connection(
        BrokerSettings.model_validate({"port": port} | broker),
        client_id,
        [f"{client_id}/#"],
        1,
        BatchSettings(),
        handler,
        lambda: next(_numbers),
        retire=retire,
        quiet=0.3,
    )
    handler.connection = connection
    task = asyncio.create_task(connection.run())
    try:
        async with asyncio.timeout(60):
            yield connection, task
    finally:
        if not task.done():
            await connection.close()
        await asyncio.wait({task})


async def publish(port: int, client_id: str, numbers: range) -> None:
    async with aiomqtt.Client("127.0.0.1", port) as client:
        for i in numbers:
            await client.publish(f"{client_id}/{i}", b"v%d" % i, qos=1)


def payloads(handler: Recorder) -> list[bytes]:
    return [row[2] for row in handler.rows]


def expected(numbers: range) -> list[bytes]:
    return [b"v%d" % i for i in numbers]


@BOTH
@pytest.mark.parametrize("tls", [False, True])
async def test_messages_arrive_in_order_and_are_not_sent_again(
    mosquitto: MosquittoServer, authority: Authority, protocol: str, tls: bool
) -> None:
    client_id = f"order-{protocol}-{tls}"
    handler = Recorder(acknowledge=True)
    options = {"protocol": protocol, "tls": TlsSettings(ca_file=authority.ca_file) if tls else None}
    port = mosquitto.tls_port if tls else mosquitto.port
    async with connected(port, client_id, handler, **options):
        await handler.until(up=1)
        await publish(mosquitto.port, client_id, range(500))
        await handler.until(rows=500)
    assert payloads(handler) == expected(range(500))
    await mosquitto.until_gone(client_id)
    again = Recorder(acknowledge=True)
    async with connected(port, client_id, again, **options):
        await again.until(up=1)
        await publish(mosquitto.port, client_id, range(1))
        await again.until(rows=1)
    assert again.up[0][1], "the session was kept"
    assert payloads(again) == expected(range(1))


@BOTH
async def test_what_was_not_acknowledged_comes_again(
    mosquitto: MosquittoServer, protocol: str
) -> None:
    client_id = f"again-{protocol}"
    handler = Recorder()
    async with connected(mosquitto.port, client_id, handler, protocol=protocol) as (connection, _):
        await handler.until(up=1)
        await publish(mosquitto.port, client_id, range(100))
        await handler.until(rows=100)
        number = connection.number
        packet_ids = np.array([row[3] for row in handler.rows], np.uint16)
        connection.acknowledge(number, packet_ids[:40])
    await mosquitto.until_gone(client_id)
    await publish(mosquitto.port, client_id, range(100, 200))
    again = Recorder(acknowledge=True)
    async with connected(mosquitto.port, client_id, again, protocol=protocol) as (connection, _):
        await again.until(rows=160)
        connection.acknowledge(number, packet_ids[40:])
    assert payloads(again) == expected(range(40, 200))


@BOTH
async def test_broker_restart(tmp_path: Path, protocol: str) -> None:
    server = MosquittoServer(tmp_path)
    handler = Recorder(acknowledge=True)
    try:
        async with connected(server.port, "restart", handler, protocol=protocol):
            await handler.until(up=1)
            await publish(server.port, "restart", range(50))
            await handler.until(rows=50)
            server.stop()
            await handler.until(down=1)
            server.start()
            await handler.until(up=2)
            await publish(server.port, "restart", range(50, 100))
            # a PUBACK that was on its way when the broker stopped is a message that comes again
            while len(set(payloads(handler))) < 100:
                await handler.until(rows=len(handler.rows) + 1)
        assert list(dict.fromkeys(payloads(handler))) == expected(range(100))
        assert [present for _, present in handler.up] == [False, True]
    finally:
        server.stop()


@BOTH
async def test_retired_session_is_drained_and_gone(
    mosquitto: MosquittoServer, protocol: str
) -> None:
    client_id = f"retire-{protocol}"
    handler = Recorder()
    async with connected(mosquitto.port, client_id, handler, protocol=protocol):
        await handler.until(up=1)
    await publish(mosquitto.port, client_id, range(100))
    drained = Recorder(acknowledge=True)
    async with connected(mosquitto.port, client_id, drained, protocol=protocol, retire=True) as (
        _,
        task,
    ):
        await task
    assert payloads(drained) == expected(range(100))
    await publish(mosquitto.port, client_id, range(100))
    fresh = Recorder()
    async with connected(mosquitto.port, client_id, fresh, protocol=protocol):
        await fresh.until(up=1)
    assert not fresh.up[0][1]
    assert fresh.rows == []


async def test_taken_over(mosquitto: MosquittoServer) -> None:
    """Mosquitto 2.0.11 closes the first connection without the DISCONNECT that says why."""
    first, second = Recorder(), Recorder()
    async with connected(mosquitto.port, "twice", first) as (connection, _):
        await first.until(up=1)
        async with connected(mosquitto.port, "twice", second):
            await first.until(down=1)
            assert first.down[0][1] in {"session_taken_over", "connection_lost"}
            while connection.problem is None:
                await asyncio.sleep(0.001)
            assert "client id" in str(connection.problem)


async def test_retained_messages_of_the_past_are_not_sent(mosquitto: MosquittoServer) -> None:
    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
        await client.publish("retained/a", b"old", qos=1, retain=True)
        handler = Recorder(acknowledge=True)
        async with connected(mosquitto.port, "retained", handler):
            await handler.until(up=1)
            await client.publish("retained/b", b"new", qos=1, retain=True)
            await handler.until(rows=1)
        assert payloads(handler) == [b"new"]


async def test_client_certificate(tmp_path: Path, authority: Authority) -> None:
    server = MosquittoServer(tmp_path, authority.server(), client_ca=authority.ca_file)
    client = authority.client("gateway")
    try:
        without = TlsSettings(ca_file=authority.ca_file)
        async with connected(server.tls_port, "bare", Recorder(), tls=without) as (connection, _):
            while connection.problem is None:
                await asyncio.sleep(0.01)
            assert connection.problem.reason == "tls_client_certificate"
            assert "set tls.cert_file and tls.key_file" in str(connection.problem)
        own = TlsSettings(
            ca_file=authority.ca_file, cert_file=client.cert_file, key_file=client.key_file
        )
        handler = Recorder()
        async with connected(server.tls_port, "known", handler, tls=own):
            await handler.until(up=1)
    finally:
        server.stop()


@pytest.mark.parametrize("tls", [False, True])
async def test_a_listener_that_wants_tls_or_has_none_is_not_called_a_second_client(
    tls: bool, mosquitto: MosquittoServer, authority: Authority
) -> None:
    port, options, says = mosquitto.tls_port, {}, "it may want TLS there (`tls`)"
    if tls:
        port, options = mosquitto.port, {"tls": TlsSettings(ca_file=authority.ca_file)}
        says = "it may have no TLS at this port"
    async with connected(port, "mismatch", Recorder(), **options) as (connection, _):
        while connection.problem is None:
            await asyncio.sleep(0.01)
        assert says in str(connection.problem)
