"""Framing kernels: PUBLISH packets → offset columns; packet ids → PUBACK bytes."""

import numpy as np

from greenlang_iot.model.batches import I32, I64, U8, U16
from greenlang_iot.model.flags import FRAME_DUP, FRAME_RETAIN
from greenlang_iot.model.jit import inlined, kernel
from greenlang_iot.model.kernels_prefetch import prefetch

# Why framing stopped.
INCOMPLETE = 0  # the rest is not a whole packet yet (or there is no rest)
CONTROL = 1  # a packet that is not a PUBLISH
UNUSUAL = 2  # a whole PUBLISH that needs the slow path, which also says what is wrong with it
FULL = 3  # a PUBLISH that the columns have no room for
TOO_LARGE = 4  # over the maximum packet size
MALFORMED = 5  # its length is not a variable byte integer

# Properties of a PUBLISH (MQTT 5, 3.3.2.3).
_PAYLOAD_FORMAT = 0x01
_MESSAGE_EXPIRY = 0x02
_CONTENT_TYPE = 0x03
_RESPONSE_TOPIC = 0x08
_CORRELATION_DATA = 0x09
_TOPIC_ALIAS = 0x23
_USER_PROPERTY = 0x26


@inlined
def _byte(buffer: U8, at: int) -> int:
    """A byte as int64 (numba makes float64 of uint64 and int64).

    An unsigned index spares numba's look at whether it is negative: a fifth of the time.
    """
    return np.int64(buffer[np.uint64(at)])  # type: ignore[return-value]


@inlined
def _skip_text(buffer: U8, at: int, end: int) -> int:
    """Where a two byte length and its text end; past `end` if it does not fit."""
    if at + 2 > end:
        return end + 1
    return at + 2 + (_byte(buffer, at) << 8) + _byte(buffer, at + 1)


@inlined
def _alias_of(buffer: U8, start: int, end: int) -> int:
    """Topic alias in the properties start..end: 0 none, −1 not for the fast path."""
    at = start
    alias = 0
    seen = 0
    while at < end:
        name = _byte(buffer, at)
        at += 1
        if name == _USER_PROPERTY:
            at = _skip_text(buffer, _skip_text(buffer, at, end), end)
            continue
        if name > _TOPIC_ALIAS or (seen >> name) & 1:
            return -1
        seen |= 1 << name
        if name == _TOPIC_ALIAS:
            if at + 2 > end:
                return -1
            alias = (_byte(buffer, at) << 8) + _byte(buffer, at + 1)
            at += 2
            if alias == 0:
                return -1
        elif name == _MESSAGE_EXPIRY:
            at += 4
        elif name == _PAYLOAD_FORMAT:
            at += 1
        elif name in (_CONTENT_TYPE, _RESPONSE_TOPIC, _CORRELATION_DATA):
            at = _skip_text(buffer, at, end)
        else:
            return -1
    return alias if at == end else -1


@kernel
def frame(
    buffer: U8,
    start: int,
    end: int,
    version5: bool,
    max_packet: int,
    alias_off: I32,
    alias_len: I32,
    first: int,
    capacity: int,
    topic_off: I32,
    topic_len: I32,
    payload_off: I32,
    payload_len: I32,
    packet_id: U16,
    flags: U8,
    out: I64,
) -> None:
    """Walk the packets in buffer[start:end] and fill the columns from row `first` up to `capacity`.

    alias_off, alias_len: by alias, where its topic lies in the buffer (length 0: not known here).
    out: where the first packet that was not framed starts, rows filled in all, rows with QoS 1
    among the new ones, why it stopped.
    """
    at = start
    n = first
    acks = 0
    stop = INCOMPLETE
    while at < end:
        prefetch(buffer, at + 1024)
        head = _byte(buffer, at)
        if head >> 4 != 3:
            stop = CONTROL
            break
        # remaining length: a variable byte integer of one to four bytes, in its shortest form
        body = at + 2
        if body > end:
            break
        byte = _byte(buffer, at + 1)
        length = byte & 127
        shift = 7
        while byte & 128 and body < end and shift < 28:
            byte = _byte(buffer, body)
            length |= (byte & 127) << shift
            body += 1
            shift += 7
        if byte & 128:
            if shift == 28:
                stop = MALFORMED
            break
        if byte == 0 and shift > 7:
            stop = MALFORMED
            break
        packet_end = body + length
        if packet_end - at > max_packet:
            stop = TOO_LARGE
            break
        if packet_end > end:
            break
        if n >= capacity:
            stop = FULL
            break
        stop = UNUSUAL  # until nothing unusual was found
        qos = (head >> 1) & 3
        if qos > 1 or length < 3:
            break
        topic = body + 2
        text_len = (_byte(buffer, body) << 8) + _byte(buffer, body + 1)
        payload = topic + text_len + 2 * qos
        if payload > packet_end:
            break
        identifier = 0
        if qos == 1:
            identifier = (_byte(buffer, payload - 2) << 8) + _byte(buffer, payload - 1)
            if identifier == 0:
                break
        alias = 0
        if version5:
            if payload == packet_end:
                break
            properties = _byte(buffer, payload)
            payload += 1
            if properties > 0:
                if properties > 127:
                    if payload == packet_end:
                        break
                    byte = _byte(buffer, payload)
                    if byte == 0 or byte > 127:
                        break
                    properties = (properties & 127) | byte << 7
                    payload += 1
                if payload + properties > packet_end:
                    break
                alias = _alias_of(buffer, payload, payload + properties)
                payload += properties
        if alias != 0:
            # A topic beside an alias defines it; the alias table belongs to the slow path.
            if alias < 0 or text_len > 0 or alias >= len(alias_len) or alias_len[alias] == 0:
                break
            topic = int(alias_off[alias])
            text_len = int(alias_len[alias])
        elif text_len == 0:
            break
        row = np.uint64(n)
        topic_off[row] = topic
        topic_len[row] = text_len
        payload_off[row] = payload
        payload_len[row] = packet_end - payload
        packet_id[row] = identifier
        flags[row] = (head & 1) * FRAME_RETAIN + ((head >> 3) & 1) * FRAME_DUP
        acks += qos
        n += 1
        at = packet_end
        stop = INCOMPLETE
    out[0] = at
    out[1] = n
    out[2] = acks
    out[3] = stop


@kernel
def pubacks(packet_ids: U16, out: U8) -> None:
    """A PUBACK of four bytes for each packet id into `out` (length 4 n)."""
    for i in range(len(packet_ids)):
        identifier = packet_ids[i]
        out[4 * i] = 0x40
        out[4 * i + 1] = 2
        out[4 * i + 2] = identifier >> 8
        out[4 * i + 3] = identifier & 255
