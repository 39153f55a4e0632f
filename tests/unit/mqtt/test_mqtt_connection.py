"""The connection on real sockets: asyncio and uvloop, TCP and TLS, against a broker of bytes."""

import asyncio
import itertools
import random
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import mqtt5
import numpy as np
import pytest
from tests.fakes.mqtt_broker import (
    CONNECT,
    DISCONNECT,
    PINGREQ,
    SUBSCRIBE,
    FakeBroker,
    Recorder,
    fake_broker,
)
from tests.reference.mqtt import publish

from greenlang_iot.model.batches import FrameBatch
from greenlang_iot.model.errors import InputError, MqttError
from greenlang_iot.model.flags import FRAME_DUP
from greenlang_iot.mqtt.transport import Connection
from greenlang_iot.settings.model import BatchSettings, BrokerSettings, TlsSettings
from greenlang_iot.simulate.ca import Authority, server_context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.uint16)


def connect(
    port: int,
    handler: Recorder,
    *,
    batch: BatchSettings | None = None,
    retire: bool = False,
    **broker: object,
) -> Connection:
    numbers = itertools.count(1)
    connection = Connection(
        BrokerSettings.model_validate({"port": port} | broker),
        "gw-0-0",
        ["greenlang/#"],
        1,
        batch or BatchSettings(linger=0.001),
        handler,
        lambda: next(numbers),
        retire=retire,
        quiet=0.05,
    )
    handler.connection = connection
    return connection


def connection_of(handler: Recorder) -> Connection:
    assert handler.connection is not None
    return handler.connection


@asynccontextmanager
async def running(connection: Connection) -> AsyncIterator[asyncio.Task[None]]:
    """Run it for the time of a test, ten seconds at most."""
    task = asyncio.create_task(connection.run())
    try:
        async with asyncio.timeout(30):
            yield task
    finally:
        if not task.done():
            await connection.close()
        await asyncio.wait({task})


@pytest.mark.parametrize("tls", [False, True])
async def test_messages_arrive_and_are_acknowledged_in_order(
    tls: bool, authority: Authority
) -> None:
    context = server_context(authority.server()) if tls else None
    settings = TlsSettings(ca_file=authority.ca_file) if tls else None
    handler = Recorder()
    async with fake_broker(context) as broker:
        connection = connect(broker.port, handler, tls=settings)
        async with running(connection):
            peer = await broker.accepted()
            await handler.until(up=1)
            sent = [publish(b"greenlang/%d" % i, b"v%d" % i, i) for i in range(1, 401)]
            stream = b"".join(sent)
            cuts = sorted(random.Random(7).sample(range(len(stream)), 20))
            for start, end in itertools.pairwise([0, *cuts, len(stream)]):
                peer.send(stream[start:end])
                await asyncio.sleep(0)
            await handler.until(rows=400)
            assert handler.rows == [(1, b"greenlang/%d" % i, b"v%d" % i, i) for i in range(1, 401)]
            assert connection.unacknowledged == 400
            for first in range(1, 401, 100):
                connection.acknowledge(1, np.arange(first, first + 100, dtype=np.uint16))
            assert await peer.acks(400) == list(range(1, 401))
            assert connection.unacknowledged == 0
            assert connection.problem is None


async def test_more_than_the_buffer_holds_and_acknowledged_at_once() -> None:
    handler = Recorder(acknowledge=True)
    async with fake_broker() as broker:
        batch = BatchSettings(max_bytes=65_536, linger=0.001)
        connection = connect(broker.port, handler, batch=batch, maximum_packet_size=20_000)
        async with running(connection):
            peer = await broker.accepted()
            rng = random.Random(1)
            sizes = [rng.choice([1, 50, 500, 15_000]) for _ in range(1_000)]
            peer.send(*(publish(b"t", bytes(n), i) for i, n in enumerate(sizes, 1)))
            assert await peer.acks(1_000) == list(range(1, 1_001))
            assert [len(row[2]) for row in handler.rows] == sizes
            assert handler.flushes < 200


async def test_acknowledged_from_the_first_byte_of_a_kept_session() -> None:
    """Messages in the CONNACK's own segment may come before `create_connection` returns."""
    handler = Recorder(acknowledge=True)
    async with fake_broker() as broker, running(connect(broker.port, handler)):
        peer = await broker.peer()
        first = [publish(b"t", b"x", i) for i in range(1, 17)]
        await peer.accept(mqtt5.ConnAckPacket(session_present=True), *first)
        assert await peer.acks(16) == list(range(1, 17))
        await handler.until(up=1)
        assert handler.up == [(1, True)]


async def test_messages_wait_for_linger_but_not_for_an_incomplete_tail() -> None:
    handler = Recorder()
    async with fake_broker() as broker, running(connect(broker.port, handler)):
        peer = await broker.accepted()
        await handler.until(up=1)
        late = publish(b"late", b"x", 2)
        peer.send(publish(b"t", b"x", 1), late[:5])
        await handler.until(rows=1)
        peer.send(late[5:])
        await handler.until(rows=2)
        assert handler.rows[1] == (1, b"late", b"x", 2)


@pytest.mark.parametrize("tls", [False, True])
async def test_what_comes_during_a_linger_is_read_at_its_end_and_goes_with_it(
    tls: bool, authority: Authority
) -> None:
    context = server_context(authority.server()) if tls else None
    settings = TlsSettings(ca_file=authority.ca_file) if tls else None
    handler = Recorder()
    async with fake_broker(context) as broker:
        batch = BatchSettings(linger=0.2)  # four times, because little comes
        async with running(connect(broker.port, handler, batch=batch, tls=settings)):
            peer = await broker.accepted()
            await handler.until(up=1)
            for i in range(1, 6):  # far fewer bytes than would wake it
                peer.send(publish(b"t", b"x", i))
                await asyncio.sleep(0.01)
            await handler.until(rows=5)
            assert handler.flushes == 1
            assert handler.waited >= 0.79  # clocks of loops count whole milliseconds


@pytest.mark.parametrize("tls", [False, True])
async def test_a_linger_is_not_repeated_where_much_waits_also_in_the_kernel(
    tls: bool, authority: Authority
) -> None:
    context = server_context(authority.server()) if tls else None
    settings = TlsSettings(ca_file=authority.ca_file) if tls else None
    handler = Recorder()
    async with fake_broker(context) as broker:
        batch = BatchSettings(linger=1.0)
        async with running(connect(broker.port, handler, batch=batch, tls=settings)):
            peer = await broker.accepted()
            await handler.until(up=1)
            peer.send(publish(b"t", b"x", 1))
            await asyncio.sleep(0.05)  # it sleeps from here on, and is not told of what comes
            peer.send(publish(b"t", bytes(20_000), 2))
            await handler.until(rows=2)
            assert handler.flushes == 1
            assert 0.99 <= handler.waited < 3.9


@pytest.mark.parametrize("tls", [False, True])
async def test_a_few_bytes_after_a_full_buffer_are_read(tls: bool, authority: Authority) -> None:
    context = server_context(authority.server()) if tls else None
    settings = TlsSettings(ca_file=authority.ca_file) if tls else None
    handler = Recorder()
    async with fake_broker(context) as broker:
        batch = BatchSettings(max_bytes=65_536, linger=0.2)
        connection = connect(
            broker.port, handler, batch=batch, tls=settings, maximum_packet_size=60_000
        )
        async with running(connection):
            peer = await broker.accepted()
            await handler.until(up=1)
            peer.send(publish(b"t", b"x", 1))  # the linger begins
            await asyncio.sleep(0.05)
            peer.send(publish(b"t", bytes(55_000), 2))  # and need not end
            await handler.until(rows=2)
            peer.send(publish(b"t", b"y", 3))
            await handler.until(rows=3)
            assert [len(row[2]) for row in handler.rows] == [1, 55_000, 1]


async def test_the_time_of_receipt_is_that_of_the_first_bytes() -> None:
    handler = Recorder()
    batch = BatchSettings(linger=0.05)
    async with fake_broker() as broker, running(connect(broker.port, handler, batch=batch)):
        peer = await broker.accepted()
        await handler.until(up=1)
        for row in (1, 2):
            begun = time.monotonic()
            peer.send(publish(b"t", b"x", row))
            await handler.until(rows=row)
            assert 0.8 * batch.linger <= handler.waited <= time.monotonic() - begun


async def test_nothing_is_sent_for_an_old_connection() -> None:
    handler = Recorder()
    async with fake_broker() as broker:
        connection = connect(broker.port, handler)
        async with running(connection):
            peer = await broker.accepted()
            peer.send(publish(b"t", b"x", 7))
            await handler.until(rows=1)
            peer.close()
            await handler.until(down=1)
            assert handler.down == [(1, "connection_lost")]
            connection.acknowledge(1, ids(7))
            peer = await broker.accepted(mqtt5.ConnAckPacket(session_present=True))
            await handler.until(up=2)
            assert handler.up == [(1, False), (2, True)]
            peer.send(publish(b"t", b"x", 7, 2))
            await handler.until(rows=2)
            connection.acknowledge(1, ids(7))
            connection.acknowledge(2, ids(7))
            assert await peer.acks(1) == [7]
            await connection.close()
            assert await peer.expect(DISCONNECT) == b"\xe0\x00", "one PUBACK and no more"


async def test_window_holds_whatever_the_broker_does() -> None:
    handler = Recorder()
    async with fake_broker() as broker:
        connection = connect(broker.port, handler, receive_maximum=4)
        async with running(connection):
            peer = await broker.accepted()
            peer.send(*(publish(b"t", b"x", i) for i in range(1, 11)))
            await handler.until(rows=4)
            for acknowledged in (2, 4):
                await asyncio.sleep(0.01)
                assert len(handler.rows) == 2 + acknowledged
                connection.acknowledge(1, ids(acknowledged - 1, acknowledged))
                await handler.until(rows=4 + acknowledged)
            assert connection.unacknowledged == 4
            connection.acknowledge(1, ids(5, 6))
            await handler.until(rows=10)
            assert await peer.acks(6) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("tls", [False, True])
async def test_pause_hands_nothing_over_and_still_pings(tls: bool, authority: Authority) -> None:
    context = server_context(authority.server()) if tls else None
    settings = TlsSettings(ca_file=authority.ca_file) if tls else None
    handler = Recorder(acknowledge=True)
    async with fake_broker(context) as broker:
        connection = connect(
            broker.port,
            handler,
            batch=BatchSettings(max_bytes=65_536, linger=0.2),
            maximum_packet_size=256,
            tls=settings,
        )
        async with running(connection):
            peer = await broker.accepted(mqtt5.ConnAckPacket(server_keep_alive=1))
            await handler.until(up=1)
            # the handler pauses while the buffer is full of messages that it was not handed yet
            handler.on_flush = connection.pause
            peer.send(*(publish(b"t", b"x", i) for i in range(1, 30_001)))
            await handler.until(rows=1_024)
            assert await peer.acks(1_024) == list(range(1, 1_025))
            await peer.expect(PINGREQ)
            await peer.expect(PINGREQ)
            assert len(handler.rows) == 1_024
            handler.on_flush = None
            connection.resume()
            await handler.until(rows=30_000)
            assert await peer.acks(28_976) == list(range(1_025, 30_001))
            assert handler.down == []


async def test_a_window_full_of_what_comes_again_does_not_stand_still() -> None:
    handler = Recorder(acknowledge=True)
    async with fake_broker() as broker, running(connect(broker.port, handler, receive_maximum=2)):
        peer = await broker.accepted()
        peer.send(publish(b"t", b"a", 1), publish(b"t", b"b", 2))
        assert await peer.acks(2) == [1, 2]
        again = [publish(b"t", b"a", 1, FRAME_DUP), publish(b"t", b"b", 2, FRAME_DUP)]
        peer.send(*again, *again, publish(b"t", b"c", 3))
        assert await peer.acks(1) == [3]
        assert [row[3] for row in handler.rows] == [1, 2, 0, 0, 0, 0, 3]


async def test_pause_before_the_connection_is_there() -> None:
    handler = Recorder()
    async with fake_broker() as broker:
        connection = connect(broker.port, handler)
        connection.pause()
        async with running(connection):
            await broker.accepted(None, publish(b"t", b"x", 1))
            await asyncio.sleep(0.02)
            assert (handler.rows, handler.up) == ([], [])
            connection.resume()
            await handler.until(rows=1, up=1)


async def test_silent_broker_is_left() -> None:
    handler = Recorder()
    async with fake_broker() as broker, running(connect(broker.port, handler)):
        peer = await broker.accepted(mqtt5.ConnAckPacket(server_keep_alive=1))
        await peer.expect(PINGREQ)
        packet = await peer.expect(DISCONNECT)
        assert packet[2] == mqtt5.DisconnectReasonCode.KEEP_ALIVE_TIMEOUT.value
        await handler.until(down=1)
        assert handler.down == [(1, "keep_alive_timeout")]
        await (await broker.peer()).expect(CONNECT)


async def test_connect_timeout_in_words() -> None:
    handler = Recorder()
    async with fake_broker() as broker:
        connection = connect(broker.port, handler, connect_timeout=0.05)
        async with running(connection):
            first = await broker.peer()
            await first.expect(CONNECT)
            await broker.peer()
            assert connection.problem is not None
            assert connection.problem.reason == "timeout"
            assert await first.closed()
            assert handler.down == []


@pytest.mark.parametrize("answer", [b"", b"\x20\x03\x00\x00\x00"])
async def test_a_broker_that_closes_without_an_answer_is_not_called_a_second_client(
    answer: bytes,
) -> None:
    handler = Recorder()
    async with fake_broker() as broker, running(connect(broker.port, handler)):
        peer = await broker.peer()
        await peer.expect(CONNECT)
        if answer:
            peer.send(answer)
            await peer.expect(SUBSCRIBE)
        peer.close()
        await broker.peer()  # it comes again, and has said why
        says = "CONNECT; it may want TLS" if not answer else "SUBSCRIBE; if that repeats, its ACL"
        assert f"instead of answering {says}" in str(connection_of(handler).problem)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "speaks not MQTT; check `host` and `port`"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "speaks TLS; set `tls` of the broker"),
    ],
)
async def test_what_is_no_broker_is_said_at_its_first_byte(answer: bytes, says: str) -> None:
    handler = Recorder()
    async with fake_broker() as broker, running(connect(broker.port, handler)):
        peer = await broker.peer()
        await peer.expect(CONNECT)
        peer.send(answer[:1])
        await broker.peer()
        assert says in str(connection_of(handler).problem)


async def test_taken_over_stops_for_good() -> None:
    handler = Recorder()
    async with fake_broker() as broker, running(connect(broker.port, handler)) as task:
        peer = await broker.accepted()
        peer.send(b"\xe0\x02\x8e\x00")
        with pytest.raises(MqttError, match="same client id"):
            await task
        assert handler.down == [(1, "session_taken_over")]
        assert await peer.closed()
        assert broker.waiting == 0


async def test_refused_for_good_and_for_now() -> None:
    handler = Recorder()
    async with fake_broker() as broker, running(connect(broker.port, handler)) as task:
        peer = await broker.peer()
        await peer.expect(CONNECT)
        peer.send(b"\x20\x03\x00\x89\x00")  # server busy
        peer = await broker.peer()
        await peer.expect(CONNECT)
        peer.send(b"\x20\x03\x00\x86\x00")
        with pytest.raises(MqttError, match="user name or password") as error:
            await task
        assert not error.value.retryable
        assert (handler.up, handler.down) == ([], [])


async def test_packet_too_large_is_named_and_the_connection_made_again() -> None:
    handler = Recorder()
    async with (
        fake_broker() as broker,
        running(connect(broker.port, handler, maximum_packet_size=300)),
    ):
        peer = await broker.accepted()
        peer.send(publish(b"good", b"x", 1), publish(b"large", bytes(300), 2))
        packet = await peer.expect(DISCONNECT)
        assert packet[2] == mqtt5.DisconnectReasonCode.PACKET_TOO_LARGE.value
        await handler.until(down=1)
        assert [row[1] for row in handler.rows] == [b"good"]
        assert handler.down == [(1, "packet_too_large")]
        await broker.accepted()


async def test_a_message_too_large_does_not_hold_up_a_session_of_311() -> None:
    """It was sent again after every new connection, and nothing behind it ever came."""
    handler = Recorder(acknowledge=True)
    settings = {"protocol": "3.1.1", "maximum_packet_size": 300}
    async with fake_broker() as broker, running(connect(broker.port, handler, **settings)):
        peer = await broker.peer()
        await peer.expect(CONNECT)
        peer.send(b"\x20\x02\x00\x00")
        await peer.expect(SUBSCRIBE)
        peer.send(b"\x90\x03\x00\x01\x01")
        for packet_id, size in ((1, 1), (2, 2_000_000), (3, 1)):
            peer.send(publish(b"t", bytes(size), packet_id, version5=False))
        assert await peer.acks(3) == [1, 2, 3]
        assert (handler.up, handler.down) == ([(1, False)], [])


async def test_close_sends_what_is_pending_and_keeps_the_session() -> None:
    handler = Recorder()
    async with fake_broker() as broker:
        connection = connect(broker.port, handler)
        async with running(connection) as task:
            peer = await broker.accepted()
            peer.send(publish(b"t", b"x", 1), publish(b"t", b"x", 2))
            await handler.until(rows=2)
            connection.acknowledge(1, ids(1))
            connection.acknowledge(1, ids(2))
            await connection.close()
            assert await peer.acks(2) == [1, 2]
            assert await peer.expect(DISCONNECT) == b"\xe0\x00"
            assert await peer.closed()
            await task
            assert handler.down == [(1, "closed")]
            connection.acknowledge(1, ids(1))


async def test_close_while_nobody_listens_and_before_run() -> None:
    async with fake_broker() as broker:
        port = broker.port
    handler = Recorder()
    connection = connect(port, handler)
    async with running(connection) as task:
        while connection.problem is None:
            await asyncio.sleep(0.001)
        assert str(connection.problem) == (
            f"no connection to the broker at 127.0.0.1:{port}: nothing listens there"
        )
        assert connection.problem.reason == "refused"
        await connection.close()
        await task
    connection = connect(port, handler)
    await connection.close()
    await connection.run()


async def test_a_handler_that_fails_ends_run() -> None:
    class Broken(Recorder):
        def on_frames(self, frames: FrameBatch) -> None:
            raise RuntimeError("a bug")

    handler = Broken()
    async with fake_broker() as broker, running(connect(broker.port, handler)) as task:
        await broker.accepted(None, publish(b"t", b"x", 1))
        with pytest.raises(RuntimeError, match="a bug"):
            await task
        assert handler.down == [(1, "closed")]


async def test_what_came_before_the_end_counts_and_so_does_its_reason() -> None:
    handler = Recorder()
    batch = BatchSettings(linger=1.0)
    async with fake_broker() as broker, running(connect(broker.port, handler, batch=batch)) as task:
        peer = await broker.accepted()
        await handler.until(up=1)
        peer.send(publish(b"t", b"x", 1), b"\xe0\x02\x8e\x00")
        peer.close()
        with pytest.raises(MqttError, match="same client id"):
            await task
        assert len(handler.rows) == 1
        assert handler.down == [(1, "session_taken_over")]


async def test_retire_unsubscribes_drains_and_ends_the_session() -> None:
    handler = Recorder()
    async with fake_broker() as broker:
        connection = connect(broker.port, handler, retire=True)
        async with running(connection) as task:
            peer = await broker.accepted(mqtt5.ConnAckPacket(session_present=True))
            peer.send(publish(b"t", b"x", 1))
            await handler.until(rows=1, up=1)
            done, _ = await asyncio.wait({task}, timeout=0.1)
            assert not done, "one message is not acknowledged"
            connection.acknowledge(1, ids(1))
            assert await peer.acks(1) == [1]
            await peer.expect(PINGREQ)  # it stood still: there is more
            peer.send(publish(b"t", b"late", 2), b"\xd0\x00")
            await handler.until(rows=2)
            connection.acknowledge(1, ids(2))
            assert await peer.acks(1) == [2]
            await peer.expect(PINGREQ)
            peer.send(b"\xd0\x00")
            packet, _ = mqtt5.read(memoryview(await peer.expect(DISCONNECT)))
            assert isinstance(packet, mqtt5.DisconnectPacket)
            assert packet.session_expiry_interval == 0
            peer.close()
            await task
            assert broker.waiting == 0


async def test_retire_by_311_replaces_the_session_by_a_clean_one() -> None:
    handler = Recorder()
    async with fake_broker() as broker:
        connection = connect(broker.port, handler, retire=True, protocol="3.1.1")
        async with running(connection) as task:
            peer = await broker.peer()
            assert (await peer.expect(CONNECT))[9] == 0
            peer.send(b"\x20\x02\x01\x00")
            peer.send(b"\xb0\x02", (await peer.packet())[2:4])
            await peer.expect(PINGREQ)
            peer.send(b"\xd0\x00")
            await peer.expect(DISCONNECT)
            peer.close()
            peer = await broker.peer()
            assert (await peer.expect(CONNECT))[9] == 2, "clean session"
            peer.send(b"\x20\x02\x00\x00")
            await task


async def test_version_311() -> None:
    handler = Recorder(acknowledge=True)
    async with fake_broker() as broker, running(connect(broker.port, handler, protocol="3.1.1")):
        peer = await broker.peer()
        await peer.expect(CONNECT)
        peer.send(b"\x20\x02\x00\x00")
        assert await peer.expect(SUBSCRIBE) == b"\x82\x10\x00\x01\x00\x0bgreenlang/#\x01"
        peer.send(b"\x90\x03\x00\x01\x01", publish(b"t", b"x", 9, version5=False))
        assert await peer.acks(1) == [9]
        assert handler.up == [(1, False)]


# TLS in words


def self_signed(authority: Authority, folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.ca_file, authority.folder / "ca.key")
    return context


async def failure(broker: FakeBroker, **settings: object) -> MqttError:
    connection = connect(broker.port, Recorder(), **settings)
    async with running(connection):
        while connection.problem is None:
            await asyncio.sleep(0.001)
        assert connection.problem.retryable, "the broker's side can be put right"
        return connection.problem


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("wrong host", "is not for this IP address"),
        ("wrong CA", "CA that is not trusted here; set tls.ca_file"),
        ("expired", "its certificate has expired; renew it"),
        ("self-signed", "self-signed; set tls.ca_file"),
        ("no TLS", "it does not speak TLS there"),
    ],
)
async def test_tls_failures_in_words(
    case: str, words: str, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path)
    context: ssl.SSLContext | None
    match case:
        case "wrong host":
            context = server_context(authority.server(("broker.example",), "elsewhere"))
        case "wrong CA":
            context = server_context(other.server())
        case "expired":
            context = server_context(authority.server(name="expired", expired=True))
        case "self-signed":
            context = self_signed(other, tmp_path)
        case _:
            context = None
    async with fake_broker(context) as broker:
        failing = asyncio.ensure_future(failure(broker, tls=TlsSettings(ca_file=authority.ca_file)))
        if context is None:
            (await broker.peer()).send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        error = await failing
    assert words in str(error)
    assert str(error).startswith(f"no connection to the broker at 127.0.0.1:{broker.port}: ")


async def test_client_certificate(authority: Authority) -> None:
    context = server_context(authority.server(), client_ca=authority.ca_file)
    client = authority.client("gateway")
    settings = TlsSettings(
        ca_file=authority.ca_file, cert_file=client.cert_file, key_file=client.key_file
    )
    handler = Recorder()
    async with fake_broker(context) as broker, running(connect(broker.port, handler, tls=settings)):
        await broker.accepted()
        await handler.until(up=1)


async def test_unverified_tls_connects(tmp_path: Path) -> None:
    handler = Recorder()
    async with (
        fake_broker(server_context(Authority(tmp_path).server())) as broker,
        running(connect(broker.port, handler, tls=TlsSettings(verify=False))),
    ):
        await broker.accepted()
        await handler.until(up=1)


async def test_unknown_host_in_words() -> None:
    handler = Recorder()
    connection = connect(1883, handler, host="broker.invalid")
    async with running(connection):
        while connection.problem is None:
            await asyncio.sleep(0.001)
        assert str(connection.problem).endswith("the name broker.invalid is unknown")


async def test_certificates_that_are_being_replaced_are_read_again(
    authority: Authority, tmp_path: Path
) -> None:
    """Wrong files at the start are a mistake to be told; later somebody is rotating them."""
    ca_file = tmp_path / "ca.crt"
    settings = TlsSettings(ca_file=ca_file)
    with pytest.raises(InputError, match="cannot be read"):
        await connect(1, Recorder(), tls=settings).run()
    ca_file.write_bytes(authority.ca_file.read_bytes())
    handler = Recorder()
    async with (
        fake_broker(server_context(authority.server())) as broker,
        running(connect(broker.port, handler, tls=settings)),
    ):
        first = await broker.peer()
        await first.accept()
        await handler.until(up=1)
        ca_file.write_bytes(b"half a certif")
        first.close()
        await handler.until(down=1)
        assert handler.connection is not None
        while "tls.ca_file" not in str(handler.connection.problem):
            await asyncio.sleep(0.001)
        ca_file.write_bytes(authority.ca_file.read_bytes())
        await broker.accepted()
        await handler.until(up=2)
