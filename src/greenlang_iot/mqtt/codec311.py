"""MQTT 3.1.1 control packets in the vocabulary of MQTT 5.

The session speaks one language: the packet classes of the mqtt5 package. Here they are written
and read as MQTT 3.1.1; what that version does not have is left out, its return codes become the
reason codes that mean the same.
"""

import mqtt5

from greenlang_iot.model.errors import MqttError

_CONNACK = {
    0: mqtt5.ConnAckReasonCode.SUCCESS,
    1: mqtt5.ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
    2: mqtt5.ConnAckReasonCode.CLIENT_ID_NOT_VALID,
    3: mqtt5.ConnAckReasonCode.SERVER_UNAVAILABLE,
    4: mqtt5.ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD,
    5: mqtt5.ConnAckReasonCode.NOT_AUTHORIZED,
}
_SUBACK = {
    0: mqtt5.SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE,
    1: mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE,
    2: mqtt5.SubAckReasonCode.GRANTED_QOS_EXACTLY_ONCE,
    0x80: mqtt5.SubAckReasonCode.UNSPECIFIED_ERROR,
}


def write(packet: mqtt5.Packet) -> bytes:
    """The packet's bytes; TypeError for a packet that the gateway never sends."""
    match packet:
        case mqtt5.ConnectPacket():
            return _connect(packet)
        case mqtt5.SubscribePacket():
            body = packet.packet_id.to_bytes(2, "big")
            for topic_filter in packet.topic_filters:
                body += _text(topic_filter.pattern.encode()) + bytes([topic_filter.max_qos.value])
            return _packet(0x82, body)
        case mqtt5.UnsubscribePacket():
            body = packet.packet_id.to_bytes(2, "big")
            return _packet(0xA2, body + b"".join(_text(p.encode()) for p in packet.patterns))
        case mqtt5.PublishPacket(qos=mqtt5.QoS.AT_MOST_ONCE):
            return _packet(0x30, _text(packet.topic.encode()) + packet.payload)
        case mqtt5.PingReqPacket():
            return b"\xc0\x00"
        case mqtt5.DisconnectPacket():
            return b"\xe0\x00"
        case _:
            raise TypeError(f"{type(packet).__name__} is not sent as MQTT 3.1.1")


def read(data: memoryview) -> mqtt5.Packet:
    """The packet that fills `data` exactly. MqttError (`malformed_packet`) where it is none.

    A server sends only CONNACK, SUBACK, UNSUBACK and PINGRESP to a client that does not publish.
    """
    head = data[0]
    header = 2
    while data[header - 1] & 128:
        header += 1
    body = bytes(data[header:])
    match head:
        case 0x20 if len(body) == 2 and body[0] < 2 and body[1] in _CONNACK:
            return mqtt5.ConnAckPacket(session_present=bool(body[0]), reason_code=_CONNACK[body[1]])
        case 0x90 if len(body) > 2 and all(code in _SUBACK for code in body[2:]):
            return mqtt5.SubAckPacket(
                int.from_bytes(body[:2], "big"), [_SUBACK[code] for code in body[2:]]
            )
        case 0xB0 if len(body) == 2:
            return mqtt5.UnsubAckPacket(int.from_bytes(body, "big"), [])
        case 0xD0 if not body:
            return mqtt5.PingRespPacket()
        case _:
            raise MqttError(
                f"the broker sent a malformed packet of type {head >> 4}",
                reason="malformed_packet",
            )


def _connect(packet: mqtt5.ConnectPacket) -> bytes:
    flags = 0x02 if packet.clean_start else 0
    payload = _text(packet.client_id.encode())
    if packet.username is not None:
        flags |= 0x80
        payload += _text(packet.username.encode())
    if packet.password is not None:
        flags |= 0x40
        payload += _text(packet.password)
    fixed = _text(b"MQTT") + bytes([4, flags]) + packet.keep_alive.to_bytes(2, "big")
    return _packet(0x10, fixed + payload)


def _packet(head: int, body: bytes) -> bytes:
    size = bytearray([head])
    length = len(body)
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    size.append(length)
    return bytes(size) + body


def _text(text: bytes) -> bytes:
    return len(text).to_bytes(2, "big") + text
