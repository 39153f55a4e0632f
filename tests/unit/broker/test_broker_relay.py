import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiomqtt
import mqtt5
import pytest
from tests.fakes.mqtt_client import QOS1, RawClient, publish

from greenlang_iot.mqtt.tls import ssl_context
from greenlang_iot.settings.model import TlsSettings
from greenlang_iot.simulate.broker import Broker
from greenlang_iot.simulate.broker_router import BrokerOptions
from greenlang_iot.simulate.ca import loopback, server_context

Start = Callable[..., Awaitable[Broker]]
Code = mqtt5.DisconnectReasonCode


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    brokers: list[Broker] = []

    async def begin(**options: object) -> Broker:
        brokers.append(Broker(options=BrokerOptions(**options)))  # type: ignore[arg-type]
        await brokers[-1].start()
        return brokers[-1]

    yield begin
    for broker in brokers:
        await broker.stop()


@pytest.fixture
async def broker(start: Start) -> Broker:
    return await start()


async def test_relays_over_tls_to_an_ordinary_client(tmp_path: Path) -> None:
    ca_file, identity = loopback(tmp_path)
    broker = Broker(tls=server_context(identity))
    await broker.start()
    context = ssl_context(TlsSettings(ca_file=ca_file))
    async with aiomqtt.Client(
        "localhost", broker.port, tls_context=context, protocol=aiomqtt.ProtocolVersion.V5
    ) as client:
        await client.subscribe("a/+/c", qos=1)
        for i in range(50):
            await client.publish(f"a/{i}/c", f"{i}", qos=1)
        seen = []
        async for message in client.messages:
            seen.append((str(message.topic), message.payload, message.qos))
            if len(seen) == 50:
                break
    assert seen == [(f"a/{i}/c", str(i).encode(), 1) for i in range(50)]
    await broker.stop()
    assert broker.counters.received == broker.counters.delivered == 50
    assert broker.counters.dropped == 0


async def test_order_qos_and_payload_sizes(broker: Broker) -> None:
    subscriber = await RawClient.connected(broker.port, "s")
    await subscriber.subscribe("q1")
    await subscriber.subscribe(mqtt5.TopicFilter("q0", max_qos=mqtt5.QoS.AT_MOST_ONCE))
    publisher = await RawClient.connected(broker.port, "p")
    payloads = [b"", b"x", b"y" * 118, b"z" * 119, b"w" * 16_400, b"v" * 300_000]
    for payload in payloads:
        await publisher.publish("q1", payload)
        await publisher.publish("q0", payload)  # QoS 1 in, QoS 0 out
        publisher.send(publish("q1", payload, None))  # QoS 0 in, QoS 0 out
    for payload in payloads:
        first = await subscriber.expect(mqtt5.PublishPacket)
        second = await subscriber.expect(mqtt5.PublishPacket)
        third = await subscriber.expect(mqtt5.PublishPacket)
        assert [p.payload for p in (first, second, third)] == [payload] * 3
        assert [p.topic for p in (first, second, third)] == ["q1", "q0", "q1"]
        assert [p.qos == QOS1 for p in (first, second, third)] == [True, False, False]


async def test_properties_pass_and_aliases_are_resolved(broker: Broker) -> None:
    subscriber = await RawClient.connected(broker.port, "s")
    await subscriber.subscribe("a/b")
    publisher = await RawClient.connected(broker.port, "p")
    await publisher.publish("a/b", b"1", topic_alias=3, user_properties=[("k", "v")])
    await publisher.publish("", b"2", topic_alias=3, content_type="t")
    one, two = [await subscriber.expect(mqtt5.PublishPacket) for _ in range(2)]
    assert (one.topic, one.payload, one.user_properties) == ("a/b", b"1", [("k", "v")])
    assert (two.topic, two.payload, two.content_type) == ("a/b", b"2", "t")
    assert one.topic_alias is None
    assert two.topic_alias is None


async def test_retained_messages_and_retain_handling(broker: Broker) -> None:
    client = await RawClient.connected(broker.port, "s")
    await client.publish("r/1", b"kept", retain=True)
    await client.publish("r/2", b"gone", retain=True)
    await client.publish("r/2", b"", retain=True)

    def handled(handling: mqtt5.RetainHandling) -> mqtt5.TopicFilter:
        return mqtt5.TopicFilter("r/#", max_qos=QOS1, retain_handling=handling)

    await client.subscribe(handled(mqtt5.RetainHandling.SEND_NEVER))
    await client.subscribe(handled(mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS))
    await client.silent()
    await client.subscribe(handled(mqtt5.RetainHandling.SEND_ALWAYS))
    kept = await client.expect(mqtt5.PublishPacket)
    assert (kept.topic, kept.payload, kept.retain) == ("r/1", b"kept", True)
    await client.silent()
    # a live message carries the flag only where the subscription asks for it
    publisher = await RawClient.connected(broker.port, "p")
    await publisher.publish("r/3", b"live", retain=True)
    assert (await client.expect(mqtt5.PublishPacket)).retain is True
    await client.subscribe(
        mqtt5.TopicFilter(
            "r/#",
            max_qos=QOS1,
            retain_as_published=False,
            retain_handling=mqtt5.RetainHandling.SEND_NEVER,
        )
    )
    await publisher.publish("r/3", b"live", retain=True)
    assert (await client.expect(mqtt5.PublishPacket)).retain is False


async def test_session_resumes_in_order_with_dup(broker: Broker) -> None:
    options = {"session_expiry_interval": 60, "receive_max": 3}
    subscriber = await RawClient.connected(broker.port, "s", **options)
    assert subscriber.connack.session_present is False
    await subscriber.subscribe("t")
    publisher = await RawClient.connected(broker.port, "p")
    for i in range(5):
        await publisher.publish("t", b"%d" % i)
    first = [await subscriber.expect(mqtt5.PublishPacket) for _ in range(3)]
    await subscriber.silent()  # three are in flight: the send quota is used up
    subscriber.send(mqtt5.PubAckPacket(first[0].packet_id or 0))
    fourth = await subscriber.expect(mqtt5.PublishPacket)
    assert fourth.payload == b"3"
    await subscriber.close()
    for i in range(5, 7):
        await publisher.publish("t", b"%d" % i)

    again = await RawClient.connected(broker.port, "s", **{**options, "receive_max": 2})
    assert again.connack.session_present is True
    got: list[tuple[bytes, bool]] = []
    ids: list[int | None] = []
    for _ in range(6):
        packet = await again.expect(mqtt5.PublishPacket)
        got.append((packet.payload, packet.duplicate))
        ids.append(packet.packet_id)
        again.send(mqtt5.PubAckPacket(packet.packet_id or 0))
    assert got == [
        (b"1", True),
        (b"2", True),
        (b"3", True),
        (b"4", False),
        (b"5", False),
        (b"6", False),
    ]
    assert ids[:3] == [first[1].packet_id, first[2].packet_id, fourth.packet_id]
    await again.silent()
    assert broker.counters.redelivered == 3
    assert broker.counters.acked == 7
    assert broker.counters.dropped == 0


async def test_clean_start_forgets_and_says_what_was_lost(broker: Broker) -> None:
    subscriber = await RawClient.connected(broker.port, "s", session_expiry_interval=60)
    await subscriber.subscribe("t")
    await subscriber.close()
    publisher = await RawClient.connected(broker.port, "p")
    await publisher.publish("t", b"1")
    again = await RawClient.connected(broker.port, "s", clean_start=True)
    assert again.connack.session_present is False
    await publisher.publish("t", b"2")
    await again.silent()
    assert broker.counters.unrouted == 1
    assert broker.counters.discarded == 1


async def test_session_taken_over(broker: Broker) -> None:
    old = await RawClient.connected(broker.port, "s", session_expiry_interval=60)
    new = await RawClient.connected(broker.port, "s", session_expiry_interval=60)
    assert (await old.expect(mqtt5.DisconnectPacket)).reason_code == Code.SESSION_TAKEN_OVER
    assert await old.receive() is None
    assert new.connack.session_present is True
    await new.silent()


async def test_a_full_session_withholds_pubacks_in_order_and_drops_nothing(start: Start) -> None:
    broker = await start(max_queued_bytes=2_000)
    subscriber = await RawClient.connected(broker.port, "s", session_expiry_interval=60)
    await subscriber.subscribe("t")
    await subscriber.close()
    publisher = await RawClient.connected(broker.port, "p")
    publisher.send(*[publish("t", b"x" * 100, i) for i in range(1, 21)])
    publisher.send(publish("nobody", b"", 21))  # nobody is full, yet PUBACKs keep their order
    acked: list[int] = []
    publisher.send(mqtt5.PingReqPacket())
    while isinstance(packet := await publisher.receive(), mqtt5.PubAckPacket):
        acked.append(packet.packet_id)
    assert isinstance(packet, mqtt5.PingRespPacket)
    assert 0 < len(acked) < 20
    assert broker.counters.withheld == 21 - len(acked)
    again = await RawClient.connected(broker.port, "s", session_expiry_interval=60)
    for _ in range(20):
        again.send(mqtt5.PubAckPacket((await again.expect(mqtt5.PublishPacket)).packet_id or 0))
    while len(acked) < 21:
        acked.append((await publisher.expect(mqtt5.PubAckPacket)).packet_id)
    assert acked == list(range(1, 22))
    assert broker.counters.dropped == 0


async def test_the_publishers_receive_maximum_is_enforced(start: Start) -> None:
    broker = await start(max_queued_bytes=0, receive_maximum=3)
    subscriber = await RawClient.connected(broker.port, "s", session_expiry_interval=60)
    await subscriber.subscribe("t")
    await subscriber.close()
    publisher = await RawClient.connected(broker.port, "p")
    assert publisher.connack.receive_max == 3
    publisher.send(*[publish("t", b"", i) for i in range(1, 5)])
    reason = (await publisher.expect(mqtt5.DisconnectPacket)).reason_code
    assert reason == Code.RECEIVE_MAX_EXCEEDED


async def test_last_will(broker: Broker) -> None:
    watcher = await RawClient.connected(broker.port, "w")
    await watcher.subscribe("will/#")

    def will(name: str) -> mqtt5.Will:
        return mqtt5.Will(f"will/{name}", payload=b"gone", qos=QOS1, retain=True)

    polite = await RawClient.connected(broker.port, "polite", will=will("polite"))
    polite.send(mqtt5.DisconnectPacket())
    assert await polite.receive() is None
    cut = await RawClient.connected(broker.port, "cut", will=will("cut"))
    await cut.close()
    packet = await watcher.expect(mqtt5.PublishPacket)
    assert (packet.topic, packet.payload) == ("will/cut", b"gone")
    late = await RawClient.connected(broker.port, "late")
    await late.subscribe("will/cut")
    assert (await late.expect(mqtt5.PublishPacket)).retain is True


async def test_a_delayed_will_is_not_sent_when_the_client_is_back(broker: Broker) -> None:
    watcher = await RawClient.connected(broker.port, "w")
    await watcher.subscribe("will/#")
    will = mqtt5.Will("will/x", payload=b"gone", will_delay_interval=60)
    first = await RawClient.connected(broker.port, "x", will=will, session_expiry_interval=90)
    await first.close()
    again = await RawClient.connected(broker.port, "x", session_expiry_interval=90)
    assert again.connack.session_present is True
    # a clean start ends the session, and with it the waiting time
    third = await RawClient.connected(broker.port, "x", will=will, session_expiry_interval=90)
    await third.close()
    await RawClient.connected(broker.port, "x", clean_start=True)
    assert (await watcher.expect(mqtt5.PublishPacket)).topic == "will/x"
    await watcher.silent()


async def test_shared_subscription_gives_each_message_once(broker: Broker) -> None:
    members = [await RawClient.connected(broker.port, f"m{i}") for i in range(2)]
    for member in members:
        await member.subscribe("$share/g/t/+")
    publisher = await RawClient.connected(broker.port, "p")
    for i in range(10):
        await publisher.publish(f"t/{i}", b"")
    topics = [[(await m.expect(mqtt5.PublishPacket)).topic for _ in range(5)] for m in members]
    assert sorted(topics[0] + topics[1]) == [f"t/{i}" for i in range(10)]


async def test_no_local_and_unsubscribe(broker: Broker) -> None:
    client = await RawClient.connected(broker.port, "c")
    assert await client.subscribe(
        mqtt5.TopicFilter("mine", max_qos=QOS1, no_local=True),
        mqtt5.TopicFilter("$share/g"),
        mqtt5.TopicFilter("two", max_qos=mqtt5.QoS.EXACTLY_ONCE),
    ) == [1, int(mqtt5.SubAckReasonCode.TOPIC_FILTER_INVALID), 1]
    await client.publish("mine", b"")
    await client.silent()
    client.send(mqtt5.UnsubscribePacket(2, ["two", "never"]))
    codes = [int(c) for c in (await client.expect(mqtt5.UnsubAckPacket)).reason_codes]
    assert codes == [0, int(mqtt5.UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED)]
    await client.publish("two", b"")
    await client.silent()


async def test_users(start: Start) -> None:
    broker = await start(users={"u": "p"})
    for username, password in (("u", b"x"), ("v", b"p"), (None, None), ("v", b"")):
        client = await RawClient.open(broker.port)
        client.send(mqtt5.ConnectPacket("c", username=username, password=password))
        connack = await client.expect(mqtt5.ConnAckPacket)
        assert connack.reason_code == mqtt5.ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD
        assert await client.receive() is None
    await RawClient.connected(broker.port, "c", username="u", password=b"p")


async def test_an_older_protocol_is_refused_in_its_own_words(broker: Broker) -> None:
    client = await RawClient.open(broker.port)
    client.writer.write(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x")
    assert await client.reader.read() == b"\x20\x02\x00\x01"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x34\x06\x00\x01a\x00\x01\x00", Code.QOS_NOT_SUPPORTED),
        (b"\x32\x06\x00\x01a\x00\x00\x00", Code.MALFORMED_PACKET),  # packet id 0
        (b"\x32\x03\x00\x01a", Code.MALFORMED_PACKET),  # truncated
        (b"\x30\x02\x00\x09", Code.MALFORMED_PACKET),
        (b"\x40\x01\x00", Code.MALFORMED_PACKET),
        (b"\x30\x04\x00\x01#\x00", Code.TOPIC_NAME_INVALID),
        (b"\x30\x04\x00\x01\xff\x00", Code.TOPIC_NAME_INVALID),
        (b"\x30\xff\xff\xff\xff\x01", Code.MALFORMED_PACKET),
        (b"\x30\xff\xff\xff\x7f", Code.PACKET_TOO_LARGE),
        (b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01x", Code.PROTOCOL_ERROR),
    ],
)
async def test_broken_packets_end_the_connection_with_the_reason(
    broker: Broker, raw: bytes, reason: mqtt5.DisconnectReasonCode
) -> None:
    client = await RawClient.connected(broker.port, "c")
    client.writer.write(raw)
    assert (await client.expect(mqtt5.DisconnectPacket)).reason_code == reason
    assert await client.receive() is None


async def test_packets_cut_anywhere_are_put_together(broker: Broker) -> None:
    subscriber = await RawClient.connected(broker.port, "s")
    await subscriber.subscribe("t")
    publisher = await RawClient.connected(broker.port, "p")
    publisher.writer.transport.get_extra_info("socket").setsockopt(6, 1, 1)
    stream = b"".join(publish("t", b"%d" % i * 60, i).write() for i in range(1, 6))
    for i in range(0, len(stream), 7):
        publisher.writer.write(stream[i : i + 7])
        await asyncio.sleep(0)
    assert [(await subscriber.expect(mqtt5.PublishPacket)).payload for _ in range(5)] == [
        b"%d" % i * 60 for i in range(1, 6)
    ]


async def test_keep_alive_is_watched(broker: Broker) -> None:
    watcher = await RawClient.connected(broker.port, "w")
    await watcher.subscribe("will")
    client = await RawClient.connected(
        broker.port, "c", keep_alive=1, will=mqtt5.Will("will", payload=b"dead")
    )
    assert (await client.expect(mqtt5.DisconnectPacket)).reason_code == Code.KEEP_ALIVE_TIMEOUT
    assert (await watcher.expect(mqtt5.PublishPacket)).payload == b"dead"


async def test_a_packet_over_the_subscribers_maximum_is_counted(broker: Broker) -> None:
    subscriber = await RawClient.connected(broker.port, "s", max_packet_size=50)
    await subscriber.subscribe("t")
    publisher = await RawClient.connected(broker.port, "p")
    await publisher.publish("t", b"x" * 100)
    await publisher.publish("t", b"x")
    assert (await subscriber.expect(mqtt5.PublishPacket)).payload == b"x"
    assert broker.counters.dropped_too_large == 1


async def test_stop_tells_the_clients(start: Start) -> None:
    broker = await start()
    client = await RawClient.connected(broker.port, "c", session_expiry_interval=60)
    await broker.stop()
    reason = (await client.expect(mqtt5.DisconnectPacket)).reason_code
    assert reason == Code.SERVER_SHUTTING_DOWN
    with pytest.raises(OSError, match=r".+"):
        await RawClient.open(broker.port)
