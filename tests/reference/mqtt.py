"""Slow, obvious twin of the framing kernel: one packet at a time, MQTT 5 by mqtt5.read."""

from dataclasses import dataclass

import mqtt5

from greenlang_iot.model.flags import FRAME_DUP, FRAME_RETAIN


@dataclass
class Framed:
    """rows: (topic, payload, packet id, flags). consumed: bytes of the packets framed."""

    rows: list[tuple[bytes, bytes, int, int]]
    consumed: int
    stop: str


def frame(
    data: bytes,
    *,
    version5: bool = True,
    max_packet: int = 262_144,
    capacity: int = 1 << 30,
    aliases: dict[int, bytes] | None = None,
) -> Framed:
    """Frame what is a plain PUBLISH of QoS 0 or 1 and say why it stopped."""
    rows: list[tuple[bytes, bytes, int, int]] = []
    at = 0
    while True:
        stop, size, row = _next(data[at:], version5, max_packet, aliases or {})
        if size and len(rows) == capacity:
            stop, row = "full", None
        if row is None:
            return Framed(rows, at, stop)
        rows.append(row)
        at += size


def packets(rows: list[tuple[bytes, bytes, int, int]], version5: bool) -> bytes:
    """PUBLISH packets of these rows."""
    return b"".join(publish(*row, version5=version5) for row in rows)


def publish(
    topic: bytes,
    payload: bytes,
    packet_id: int = 0,
    flags: int = 0,
    *,
    version5: bool = True,
    properties: bytes = b"",
) -> bytes:
    """One PUBLISH, byte by byte from the specification."""
    head = 0x30 | bool(flags & FRAME_DUP) << 3 | bool(packet_id) << 1 | bool(flags & FRAME_RETAIN)
    body = len(topic).to_bytes(2, "big") + topic
    if packet_id:
        body += packet_id.to_bytes(2, "big")
    if version5:
        body += varint(len(properties)) + properties
    return bytes([head]) + varint(len(body + payload)) + body + payload


def varint(value: int) -> bytes:
    """A variable byte integer."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _next(
    data: bytes, version5: bool, max_packet: int, aliases: dict[int, bytes]
) -> tuple[str, int, tuple[bytes, bytes, int, int] | None]:
    """(stop, size of the packet, its row if it is plain)"""
    if not data:
        return "incomplete", 0, None
    if data[0] >> 4 != 3:
        return "control", 0, None
    digits = data[1:5]
    length_bytes = next((i + 1 for i, byte in enumerate(digits) if byte < 128), 0)
    if not length_bytes:
        return ("malformed" if len(digits) == 4 else "incomplete"), 0, None
    length = sum((byte & 127) << 7 * i for i, byte in enumerate(digits[:length_bytes]))
    if varint(length) != digits[:length_bytes]:
        return "malformed", 0, None
    size = 1 + length_bytes + length
    if size > max_packet:
        return "too_large", 0, None
    if size > len(data):
        return "incomplete", 0, None
    read = _read5 if version5 else _read311
    row = read(data[:size], data[1 + length_bytes : size], aliases)
    return "unusual" if row is None else "", size, row


def _read5(
    packet: bytes, body: bytes, aliases: dict[int, bytes]
) -> tuple[bytes, bytes, int, int] | None:
    try:
        read, _ = mqtt5.read(packet)
    except (ValueError, IndexError):
        return None
    except BaseException as error:  # a text that is not UTF-8 panics in Rust
        if type(error).__name__ != "PanicException":
            raise
        return None
    assert isinstance(read, mqtt5.PublishPacket)
    topic = read.topic.encode()
    # mqtt5 lets the last property run over the end of the properties, into the payload
    known = body[2 + len(topic) + (2 if read.packet_id is not None else 0) :]
    digits = next(i + 1 for i, byte in enumerate(known) if byte < 128)
    length = sum((byte & 127) << 7 * i for i, byte in enumerate(known[:digits]))
    if known[digits + length :] != read.payload:
        return None
    if read.subscription_ids or read.qos == mqtt5.QoS.EXACTLY_ONCE:
        return None
    if read.qos == mqtt5.QoS.AT_LEAST_ONCE and not read.packet_id:
        return None
    if read.topic_alias is not None:
        if topic or read.topic_alias not in aliases:
            return None
        topic = aliases[read.topic_alias]
    flags = FRAME_RETAIN * read.retain + FRAME_DUP * read.duplicate
    return topic, bytes(read.payload), read.packet_id or 0, flags


def _read311(
    packet: bytes, body: bytes, aliases: dict[int, bytes]
) -> tuple[bytes, bytes, int, int] | None:
    qos = packet[0] >> 1 & 3
    topic_len = int.from_bytes(body[:2], "big")
    rest = body[2 + topic_len :]
    if qos > 1 or not topic_len or len(body) < 2 + topic_len + 2 * qos:
        return None
    packet_id = int.from_bytes(rest[:2], "big") if qos else 0
    if qos and not packet_id:
        return None
    flags = FRAME_RETAIN * (packet[0] & 1) + FRAME_DUP * (packet[0] >> 3 & 1)
    return body[2 : 2 + topic_len], rest[2 * qos :], packet_id, flags
