"""MQTT 3.1.1 packets, byte by byte from the specification and beside paho's."""

from collections.abc import Callable

import mqtt5
import paho.mqtt.client as paho
import pytest

from greenlang_iot.model.errors import MqttError
from greenlang_iot.mqtt import codec311

QOS1 = mqtt5.QoS.AT_LEAST_ONCE


def paho_bytes(act: Callable[[paho.Client], object], **options: object) -> bytes:
    """What paho puts into its output queue."""
    client = paho.Client(
        paho.CallbackAPIVersion.VERSION2, client_id="gw-0-0", protocol=paho.MQTTv311, **options
    )
    client._sock = object()  # it sends only when it believes to be connected
    client._sockpairW = None
    client._thread = None
    sent: list[bytes] = []
    client._packet_queue = lambda command, packet, mid, qos, info=None: sent.append(bytes(packet))
    act(client)
    client._sock = None
    return sent[0]


@pytest.mark.parametrize("clean", [False, True])
def test_connect_is_pahos(clean: bool) -> None:
    def connect(client: paho.Client) -> None:
        client.username_pw_set("user", "secret")
        client._send_connect(30)

    packet = mqtt5.ConnectPacket(
        "gw-0-0", username="user", password=b"secret", clean_start=clean, keep_alive=30
    )
    assert codec311.write(packet) == paho_bytes(connect, clean_session=clean)


def test_connect_from_the_specification() -> None:
    packet = mqtt5.ConnectPacket("c", keep_alive=10, session_expiry_interval=9)
    assert codec311.write(packet) == b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x0a\x00\x01c"


def test_subscribe_and_unsubscribe_are_pahos() -> None:
    filters = [f"greenlang/+/site-{i}/#" for i in range(30)]  # a length of two bytes
    subscribe = mqtt5.SubscribePacket(
        1, [mqtt5.TopicFilter(pattern, max_qos=QOS1) for pattern in filters]
    )
    expected = paho_bytes(lambda client: client.subscribe([(f, 1) for f in filters]))
    assert codec311.write(subscribe) == expected
    expected = paho_bytes(lambda client: client.unsubscribe(filters))
    assert codec311.write(mqtt5.UnsubscribePacket(1, filters)) == expected


def test_packets_without_a_body() -> None:
    assert codec311.write(mqtt5.PingReqPacket()) == b"\xc0\x00"
    assert codec311.write(mqtt5.DisconnectPacket(session_expiry_interval=0)) == b"\xe0\x00"


def test_a_packet_that_is_never_sent() -> None:
    with pytest.raises(TypeError, match="PingRespPacket"):
        codec311.write(mqtt5.PingRespPacket())


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (0, "SUCCESS"),
        (1, "UNSUPPORTED_PROTOCOL_VERSION"),
        (2, "CLIENT_ID_NOT_VALID"),
        (3, "SERVER_UNAVAILABLE"),
        (4, "BAD_USER_NAME_OR_PASSWORD"),
        (5, "NOT_AUTHORIZED"),
    ],
)
def test_connack(code: int, meaning: str) -> None:
    packet = codec311.read(memoryview(bytes([0x20, 2, 1, code])))
    assert isinstance(packet, mqtt5.ConnAckPacket)
    assert packet.session_present
    assert packet.reason_code.name == meaning


def test_suback_with_a_length_of_two_bytes() -> None:
    codes = bytes([0, 1, 2, 0x80]) * 40
    packet = codec311.read(memoryview(b"\x90\xa2\x01\x12\x34" + codes))
    assert isinstance(packet, mqtt5.SubAckPacket)
    assert packet.packet_id == 0x1234
    assert [code.value for code in packet.reason_codes] == list(codes)


def test_unsuback_and_pingresp() -> None:
    packet = codec311.read(memoryview(b"\xb0\x02\x00\x07"))
    assert isinstance(packet, mqtt5.UnsubAckPacket)
    assert packet.packet_id == 7
    assert isinstance(codec311.read(memoryview(b"\xd0\x00")), mqtt5.PingRespPacket)


@pytest.mark.parametrize(
    "data",
    [
        b"\x20\x02\x00\x06",  # unknown return code
        b"\x20\x02\x02\x00",  # reserved bits
        b"\x20\x03\x00\x00\x00",
        b"\x90\x02\x00\x01",  # no return code
        b"\x90\x03\x00\x01\x03",
        b"\xb0\x03\x00\x01\x00",
        b"\xd0\x01\x00",
        b"\xe0\x00",  # a server sends no DISCONNECT
        b"\x10\x00",
        b"\xf0\x00",
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(MqttError, match=f"of type {data[0] >> 4}") as error:
        codec311.read(memoryview(data))
    assert error.value.reason == "malformed_packet"


def test_publish_at_qos_0() -> None:
    packet = mqtt5.PublishPacket("a/b", b"payload", qos=mqtt5.QoS.AT_MOST_ONCE)
    assert codec311.write(packet) == b"\x30\x0c\x00\x03a/bpayload"
