"""Just enough of MQTT 5 to keep a record of a connection: PUBLISH one way, PUBACK the other."""

from collections.abc import Iterator
from typing import NamedTuple

CONNECT, CONNACK, PUBLISH, PUBACK = 1, 2, 3, 4
DUP = 0x08
_TOPIC_ALIAS = 0x23
_ONE = {0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A}
_TWO = {0x13, 0x21, 0x22, 0x23}
_FOUR = {0x02, 0x11, 0x18, 0x27}
_TEXT = {0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F}


class Packet(NamedTuple):
    """kind: type of the control packet. raw: all of its bytes. body: what follows the length."""

    kind: int
    flags: int
    raw: bytes
    body: bytes


class Publish(NamedTuple):
    topic: bytes
    alias: int
    packet_id: int
    payload: bytes


class Splitter:
    """Bytes in, whole packets out; for one direction of one connection."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Packet]:
        self._data += data
        start = 0
        while (found := _length(self._data, start + 1)) is not None:
            length, at = found
            if at + length > len(self._data):
                break
            end = at + length
            first = self._data[start]
            yield Packet(
                first >> 4, first & 15, bytes(self._data[start:end]), bytes(self._data[at:end])
            )
            start = end
        del self._data[:start]


def publish(packet: Packet) -> Publish:
    """topic: empty where only the alias is given. packet_id: 0 at QoS 0."""
    body = packet.body
    size = int.from_bytes(body[:2])
    at = 2 + size
    packet_id = 0
    if packet.flags & 6:
        packet_id = int.from_bytes(body[at : at + 2])
        at += 2
    alias, end = _alias(body, at)
    return Publish(body[2 : 2 + size], alias, packet_id, body[end:])


def client_id(packet: Packet) -> str:
    """Of a CONNECT."""
    body = packet.body
    found = _length(body, 10)
    assert found is not None
    length, at = found
    at += length
    size = int.from_bytes(body[at : at + 2])
    return body[at + 2 : at + 2 + size].decode()


def acknowledged(packet: Packet) -> int:
    """The packet id of a PUBACK that says success; 0 for one that says no."""
    refused = len(packet.body) > 2 and packet.body[2] >= 0x80
    return 0 if refused else int.from_bytes(packet.body[:2])


def _alias(body: bytes, at: int) -> tuple[int, int]:
    """(topic alias or 0, where the properties end)."""
    found = _length(body, at)
    assert found is not None
    length, at = found
    end = at + length
    alias = 0
    while at < end:
        name = body[at]
        at += 1
        if name == _TOPIC_ALIAS:
            alias = int.from_bytes(body[at : at + 2])
        at = _skip(body, at, name)
    return alias, end


def _skip(body: bytes, at: int, name: int) -> int:
    if name in _ONE:
        return at + 1
    if name in _TWO:
        return at + 2
    if name in _FOUR:
        return at + 4
    if name in _TEXT:
        return at + 2 + int.from_bytes(body[at : at + 2])
    if name == 0x26:  # a user property: two texts
        at += 2 + int.from_bytes(body[at : at + 2])
        return at + 2 + int.from_bytes(body[at : at + 2])
    if name == 0x0B:
        found = _length(body, at)
        assert found is not None
        return found[1]
    raise ValueError(f"property {name:#x} is not known to MQTT 5")


def _length(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """(a variable byte integer, what follows it); None where it is not all there."""
    value = shift = 0
    for i in range(at, min(at + 4, len(data))):
        value |= (data[i] & 127) << shift
        shift += 7
        if not data[i] & 128:
            return value, i + 1
    return None
