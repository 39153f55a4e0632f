"""MQTT 5 control packets, by the mqtt5 package; its errors are translated here and only here.

That package panics over a text that is not UTF-8, and Rust prints a stack trace before the panic can be
caught. So the texts of a packet are looked at first.
"""

import mqtt5

from greenlang_iot.model.errors import MqttError

_OTHER_VERSION = b"\x20\x02\x00\x01"
"""The CONNACK of a broker that speaks MQTT 3.1.1 only (3.1.1, 3.1.2.2): it has no properties."""

# Properties (MQTT 5, 2.2.2.2) by the form of their value.
_SUBSCRIPTION_IDENTIFIER = 0x0B
_TOPIC_ALIAS = 0x23
_USER_PROPERTY = 0x26
_TEXTS = (0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F)
_BINARIES = (0x09, 0x16)
_BYTES = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, _TOPIC_ALIAS), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
}
_OF_PUBLISH = (0x01, 0x02, 0x03, 0x08, 0x09, _SUBSCRIPTION_IDENTIFIER, _TOPIC_ALIAS, _USER_PROPERTY)


def write(packet: mqtt5.Packet) -> bytes:
    """The packet's bytes."""
    return packet.write()


def read(data: memoryview) -> mqtt5.Packet:
    """The packet that fills `data` exactly. MqttError (`malformed_packet`) where it is none."""
    if data == _OTHER_VERSION:
        code = mqtt5.ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION
        return mqtt5.ConnAckPacket(reason_code=code)
    try:
        packet, size = parse(data)
    except (ValueError, IndexError) as error:
        raise _malformed(data, str(error)) from error
    if size != len(data):
        raise _malformed(data, "it is shorter than its length says")
    return packet


def parse(data: memoryview) -> tuple[mqtt5.Packet, int]:
    """The packet that `data` begins with, and its size.

    IndexError: not all of it is there. ValueError: it is none.
    """
    length, at = _variable_byte_integer(data, 1)
    packet = data[: at + length]
    try:
        _check_texts(packet, at)
    except UnicodeDecodeError:
        raise ValueError("a text is not UTF-8") from None
    except (ValueError, IndexError):
        pass  # the package says what is wrong
    return mqtt5.read(packet)


def alias_and_payload(packet: memoryview, at: int) -> tuple[int | None, int]:
    """(topic alias, where the payload starts) of a PUBLISH whose properties begin `at` with their length.

    The texts of properties need not be UTF-8: nobody reads them.
    ValueError or IndexError: the properties are malformed.
    """
    length, at = _variable_byte_integer(packet, at)
    end = at + length
    seen: set[int] = set()
    alias = None
    while at < end:
        name, value = packet[at], at + 1
        if name not in _OF_PUBLISH:
            raise ValueError(f"a PUBLISH has no property {name}")
        if name in seen and name not in (_SUBSCRIPTION_IDENTIFIER, _USER_PROPERTY):
            raise ValueError(f"property {name} stands twice")
        seen.add(name)
        at = _value_end(packet, name, value)
        if name == _TOPIC_ALIAS:
            alias = packet[value] << 8 | packet[value + 1]
    if at != end or end > len(packet):
        raise ValueError("its properties do not fill their length")
    return alias, end


def _check_texts(packet: memoryview, at: int) -> None:
    """Go through a packet as the package does, from behind its length on.

    UnicodeDecodeError: a text is not UTF-8. ValueError or IndexError: it has not the form of its type.
    """
    kind = packet[0] >> 4
    if kind == 1:  # CONNECT: name, version, flags, keep-alive
        at = _checked(packet, at)
        flags = packet[at + 1]
        at = _checked(packet, _check_properties(packet, at + 4))  # client id
        if flags & 4:  # will: topic, payload
            at = _text_end(packet, _checked(packet, _check_properties(packet, at)))
        if flags & 128:  # user name
            _checked(packet, at)
    elif kind == 3:  # PUBLISH: topic, packet id
        at = _checked(packet, at)
        _check_properties(packet, at + 2 * bool(packet[0] & 6))
    elif kind in (8, 10):  # SUBSCRIBE, UNSUBSCRIBE: packet id; topic filters
        at = _check_properties(packet, at + 2)
        while at < len(packet):
            at = _checked(packet, at) + (kind == 8)
    else:  # PUBACK and its kin: packet id, reason code; DISCONNECT, AUTH: reason code; others: 2 bytes
        _check_properties(packet, at + {4: 3, 5: 3, 6: 3, 7: 3, 14: 1, 15: 1}.get(kind, 2))


def _check_properties(packet: memoryview, at: int) -> int:
    """Where the properties end, whose length is `at`; the package lets the last one run over their end."""
    length, at = _variable_byte_integer(packet, at)
    end = at + length
    while at < end:
        name, at = packet[at], at + 1
        if name in _TEXTS:
            at = _checked(packet, at)
        elif name == _USER_PROPERTY:
            at = _checked(packet, _checked(packet, at))
        else:
            at = _value_end(packet, name, at)
    return at


def _value_end(packet: memoryview, name: int, at: int) -> int:
    if name in _BYTES:
        return at + _BYTES[name]
    if name in _TEXTS or name in _BINARIES:
        return _text_end(packet, at)
    if name == _USER_PROPERTY:
        return _text_end(packet, _text_end(packet, at))
    if name == _SUBSCRIPTION_IDENTIFIER:
        return _variable_byte_integer(packet, at)[1]
    raise ValueError(f"there is no property {name}")


def _checked(packet: memoryview, at: int) -> int:
    """Where the text ends whose length is `at`. UnicodeDecodeError: it is not UTF-8."""
    end = _text_end(packet, at)
    str(packet[at + 2 : end], "utf-8")
    return end


def _text_end(packet: memoryview, at: int) -> int:
    end = at + 2 + (packet[at] << 8) + packet[at + 1]
    if end > len(packet):
        raise IndexError("not enough bytes")
    return end


def _variable_byte_integer(data: memoryview, at: int) -> tuple[int, int]:
    """Its value and where it ends."""
    value = 0
    for i in range(4):
        byte = data[at + i]
        value |= (byte & 127) << 7 * i
        if not byte & 128:
            if i and not byte:
                raise ValueError("a length is not in its shortest form")
            return value, at + i + 1
    raise ValueError("a length has more than four bytes")


def _malformed(data: memoryview, why: str) -> MqttError:
    return MqttError(
        f"the broker sent a malformed packet of type {data[0] >> 4}: {why}",
        reason="malformed_packet",
    )
