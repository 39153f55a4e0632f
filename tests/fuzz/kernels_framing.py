"""The framing kernel against a twin written from the specification, at every split of every stream.

Compiled too, so that ten million streams take minutes. The twin itself is compared with
`tests/reference/mqtt.py`, which asks the mqtt5 package, in the unit tests.
"""

import numpy as np

from greenlang_iot.model.batches import I32, I64, U8, U16
from greenlang_iot.model.flags import FRAME_DUP, FRAME_RETAIN
from greenlang_iot.model.jit import inlined, kernel
from greenlang_iot.mqtt.kernels import (
    CONTROL,
    FULL,
    INCOMPLETE,
    MALFORMED,
    TOO_LARGE,
    UNUSUAL,
    frame,
)

PLAIN = 7  # a packet whose row was written
ROW = 6  # topic offset and length, payload offset and length, packet id, flags


@inlined
def _be16(buffer: U8, at: int) -> int:
    return 256 * np.int64(buffer[at]) + np.int64(buffer[at + 1])


@inlined
def _property_end(buffer: U8, name: int, at: int, end: int) -> int:
    """Where the value of property `name` that begins at `at` ends; −1 where it has no place here."""
    if name == 0x01:
        return at + 1
    if name == 0x02:
        return at + 4
    if name == 0x23:
        return at + 2
    texts = 2 if name == 0x26 else 1 if name in (0x03, 0x08, 0x09) else 0
    if texts == 0:
        return -1
    for _ in range(texts):
        if at + 2 > end:
            return -1
        at += 2 + _be16(buffer, at)
        if at > end:
            return -1
    return at


@inlined
def _alias(buffer: U8, at: int, end: int) -> int:
    """The topic alias in the properties at:end; 0: none, −1: they are wrong or rare."""
    seen = np.zeros(256, np.int64)
    alias = 0
    while at < end:
        name = np.int64(buffer[at])
        after = _property_end(buffer, name, at + 1, end)
        if after < 0 or after > end:
            return -1
        seen[name] += 1
        if seen[name] > 1 and name != 0x26:
            return -1
        if name == 0x23:
            alias = _be16(buffer, at + 1)
            if alias == 0:
                return -1
        at = after
    return alias


@inlined
def _read(
    buffer: U8, at: int, end: int, version5: bool, max_packet: int,
    alias_off: I32, alias_len: I32, full: bool, row: I64,
) -> tuple[int, int]:  # fmt: skip
    """(what the packet at `at` is, where it ends), and its row where it is PLAIN."""
    if at >= end:
        return INCOMPLETE, at
    head = np.int64(buffer[at])
    if head // 16 != 3:
        return CONTROL, at
    length = 0
    digits = 0
    more = True
    last = 0
    while more:
        if digits == 4:
            return MALFORMED, at
        if at + 1 + digits >= end:
            return INCOMPLETE, at
        last = np.int64(buffer[at + 1 + digits])
        length += (last % 128) * 128**digits
        digits += 1
        more = last >= 128
    if digits > 1 and last == 0:
        return MALFORMED, at  # not the shortest form
    body = at + 1 + digits
    after = body + length
    if after - at > max_packet:
        return TOO_LARGE, at
    if after > end:
        return INCOMPLETE, at
    if full:
        return FULL, at
    qos = head // 2 % 4
    if qos > 1 or length < 2:
        return UNUSUAL, at
    topic_len = _be16(buffer, body)
    payload = body + 2 + topic_len
    if payload > after:
        return UNUSUAL, at
    row[0], row[1], row[4] = body + 2, topic_len, 0
    if qos == 1:
        if payload + 2 > after or _be16(buffer, payload) == 0:
            return UNUSUAL, at
        row[4] = _be16(buffer, payload)
        payload += 2
    alias = 0
    if version5:
        size = 0
        digits = 0
        more = True
        while more:
            if payload >= after or digits == 2:
                return UNUSUAL, at  # the fast path takes two digits at most
            last = np.int64(buffer[payload])
            size += (last % 128) * 128**digits
            digits += 1
            payload += 1
            more = last >= 128
        if (digits > 1 and last == 0) or payload + size > after:
            return UNUSUAL, at
        alias = _alias(buffer, payload, payload + size)
        payload += size
    if alias < 0 or (alias > 0) == (topic_len > 0):
        return UNUSUAL, at  # neither or both name the topic
    if alias > 0:
        if alias >= len(alias_len) or alias_len[alias] == 0:
            return UNUSUAL, at
        row[0], row[1] = alias_off[alias], alias_len[alias]
    row[2], row[3] = payload, after - payload
    row[5] = FRAME_RETAIN * (head % 2) + FRAME_DUP * (head // 8 % 2)
    return PLAIN, after


@kernel
def twin(
    buffer: U8, start: int, end: int, version5: bool, max_packet: int,
    alias_off: I32, alias_len: I32, capacity: int, rows: I64, out: I64,
) -> None:  # fmt: skip
    """Like `frame`: rows of six numbers each into `rows`; out: as `frame`'s."""
    at = start
    n = 0
    acks = 0
    row = np.zeros(ROW, np.int64)
    while True:
        what, after = _read(
            buffer, at, end, version5, max_packet, alias_off, alias_len, n >= capacity, row
        )
        if what != PLAIN:
            break
        rows[ROW * n : ROW * n + ROW] = row
        acks += 1 if row[4] else 0
        n += 1
        at = after
    out[0], out[1], out[2], out[3] = at, n, acks, what


@kernel
def first_disagreement(
    buffer: U8, offsets: I64, lengths: I32, version5: bool, max_packet: int, capacity: int,
    alias_off: I32, alias_len: I32,
    topic_off: I32, topic_len: I32, payload_off: I32, payload_len: I32, packet_id: U16, flags: U8,
    rows: I64, want: I64, got: I64,
) -> tuple[int, int, int]:  # fmt: skip
    """(stream, split) at which kernel and twin differ, or (−1, −1); and the splits looked at.

    Each stream buffer[offsets[i]:][:lengths[i]] is framed at once and in two pieces, cut everywhere.
    """
    splits = 0
    for i in range(len(offsets)):
        start = offsets[i]
        end = start + lengths[i]
        twin(buffer, start, end, version5, max_packet, alias_off, alias_len, capacity, rows, want)
        for cut in range(end, start - 1, -1):
            splits += 1
            frame(
                buffer, start, cut, version5, max_packet, alias_off, alias_len, 0, capacity,
                topic_off, topic_len, payload_off, payload_len, packet_id, flags, got,
            )  # fmt: skip
            acks = got[2]
            if cut < end and got[3] == INCOMPLETE:
                frame(
                    buffer, got[0], end, version5, max_packet, alias_off, alias_len, got[1],
                    capacity, topic_off, topic_len, payload_off, payload_len, packet_id, flags, got,
                )  # fmt: skip
                acks += got[2]
            same = got[0] == want[0] and got[1] == want[1] and acks == want[2] and got[3] == want[3]
            for k in range(want[1] if same else 0):
                same = (
                    same
                    and topic_off[k] == rows[ROW * k]
                    and topic_len[k] == rows[ROW * k + 1]
                    and payload_off[k] == rows[ROW * k + 2]
                    and payload_len[k] == rows[ROW * k + 3]
                    and packet_id[k] == rows[ROW * k + 4]
                    and flags[k] == rows[ROW * k + 5]
                )
            if not same:
                return i, cut - start, splits
    return -1, -1, splits
