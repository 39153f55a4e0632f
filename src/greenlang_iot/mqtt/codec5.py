"""MQTT 5 control packets, by the mqtt5 package; its errors are translated here and only here."""

import mqtt5

from greenlang_iot.model.errors import MqttError

_OTHER_VERSION = b"\x20\x02\x00\x01"
"""The CONNACK of a broker that speaks MQTT 3.1.1 only (3.1.1, 3.1.2.2): it has no properties."""


def write(packet: mqtt5.Packet) -> bytes:
    """The packet's bytes."""
    return packet.write()


def read(data: memoryview) -> mqtt5.Packet:
    """The packet that fills `data` exactly. MqttError (`malformed_packet`) where it is none."""
    if data == _OTHER_VERSION:
        code = mqtt5.ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION
        return mqtt5.ConnAckPacket(reason_code=code)
    try:
        packet, size = mqtt5.read(data)
    except (ValueError, IndexError) as error:
        raise _malformed(data, str(error)) from error
    except BaseException as error:
        # A string that is not UTF-8 panics inside the Rust codec, and a panic is a BaseException.
        if type(error).__name__ != "PanicException":
            raise
        raise _malformed(data, "a string is not UTF-8") from error
    if size != len(data):
        raise _malformed(data, "it is shorter than its length says")
    return packet


def read_publish(data: memoryview) -> mqtt5.PublishPacket:
    """As `read`, for a packet whose type is PUBLISH already."""
    packet = read(data)
    assert isinstance(packet, mqtt5.PublishPacket)
    return packet


def _malformed(data: memoryview, why: str) -> MqttError:
    return MqttError(
        f"the broker sent a malformed packet of type {data[0] >> 4}: {why}",
        reason="malformed_packet",
    )
