"""What the counting sinks check of every line and record: its every byte, and that none is missing,
twice, or (where order is promised) out of order.

A sink's state per device: `next_lap`, the first lap that did not come yet, and `ahead`, a bit for each
of the 64 laps behind it that came already. `found` counts what is wrong, by the numbers below.
"""

import numpy as np

from greenlang_iot.model.batches import I64, U8, U16, U64
from greenlang_iot.model.jit import fused, kernel
from greenlang_iot.model.kernels_words import copy16, load64, peek, poke, signed, store64

LAP_MS = 10
SPIKE_MASK = 0x1_FFFF
GOOD, MALFORMED, WRONG_VALUE, DUPLICATE, LOST, AHEAD = 0, 1, 2, 3, 4, 5
FOUND = 6
"""Length of `found`."""

_32 = 0xFFFF_FFFF
_HIGH, _LOW = np.uint64(0xF0F0_F0F0_F0F0_F0F0), np.uint64(0x0F0F_0F0F_0F0F_0F0F)
_ZEROS, _SIXES = np.uint64(0x3030_3030_3030_3030), np.uint64(0x0606_0606_0606_0606)
_PAIRS, _FOUR = np.uint64(0x00FF_00FF_00FF_00FF), np.uint64(0xFFFF)
LINE_HEAD = np.frombuffer(b"telemetry,device=d", np.uint8)
LINE_TAGS = np.frombuffer(b",org=acme,site=s", np.uint8)
LINE_FIELD = np.frombuffer(b",type=bench temperature=", np.uint8)
LINE_SCORE = np.frombuffer(b",temperature_score=", np.uint8)
RECORD_HEAD = np.frombuffer(b'{"v":1,"org":"acme","site":"s', np.uint8)
RECORD_DEVICE = np.frombuffer(b'","device":"d', np.uint8)
RECORD_TS = np.frombuffer(b'","type":"bench","metric":"temperature","unit":"Cel","ts":', np.uint8)
RECORD_VALUE = np.frombuffer(b',"value":', np.uint8)
RECORD_SEQ = np.frombuffer(b',"seq":', np.uint8)
RECORD_SCORE = np.frombuffer(b',"score":', np.uint8)
RECORD_VERDICT = np.frombuffer(b',"verdict":"', np.uint8)


@fused
def _is(buffer: U8, at: int, text: U8) -> bool:
    size = len(text)
    if size < 8:
        for i in range(size):  # noqa: SIM110 (numba compiles no generators)
            if peek(buffer, at + i) != peek(text, i):
                return False
        return True
    done = 0
    while done + 8 <= size:
        if load64(buffer, at + done) != load64(text, done):
            return False
        done += 8
    return load64(buffer, at + size - 8) == load64(text, size - 8)  # type: ignore[no-any-return]


@fused
def _number(buffer: U8, at: int, digits: int) -> int:
    """The decimal number of so many digits, or −1."""
    value = 0
    while digits >= 8:
        eight = _eight_digits(load64(buffer, at))
        if eight < 0:
            return -1
        value = value * 100_000_000 + eight
        at += 8
        digits -= 8
    for i in range(digits):
        digit = int(peek(buffer, at + i)) - 48
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return value


@fused
def _eight_digits(word: np.uint64) -> int:
    """The number of eight ASCII digits, the first one lowest, or −1: pairs, fours and eights side by side."""
    if (word & _HIGH) != _ZEROS or ((word + _SIXES) & _HIGH) != _ZEROS:
        return -1
    word = (word & _LOW) * np.uint64(10) + ((word & _LOW) >> np.uint64(8))
    word = (word & _PAIRS) * np.uint64(100) + ((word >> np.uint64(16)) & _PAIRS)
    return signed((word & _FOUR) * np.uint64(10_000) + ((word >> np.uint64(32)) & _FOUR))


@fused
def expected(device: int, ts_ms: int) -> int:
    """The value of a device at a time stamp, × 1000."""
    h = ((device * 0x9E37_79B1) ^ ((ts_ms & 0x3FFF_FFFF) * 0x85EB_CA77)) & _32
    h = ((h ^ (h >> 15)) * 0x2C1B_3C6D) & _32
    h ^= h >> 12
    noise = (h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) + (h >> 24)
    return noise + 20_490 + (5000 if h & SPIKE_MASK == 0 else 0)


@fused
def _mark(device: int, lap: int, next_lap: I64, ahead: U64) -> int:
    """Enter a reading; GOOD, or what is wrong with it (AHEAD: before one that comes earlier)."""
    delta = lap - next_lap[device]
    if delta == 0:
        bits = ahead[device]
        next_lap[device] += 1
        while bits & np.uint64(1):
            next_lap[device] += 1
            bits >>= np.uint64(1)
        ahead[device] = bits >> np.uint64(1)
        return GOOD
    if delta < 0:
        return DUPLICATE
    if delta > 64:
        return LOST
    bit = np.uint64(1) << np.uint64(delta - 1)
    if ahead[device] & bit:
        return DUPLICATE
    ahead[device] |= bit
    return AHEAD


@kernel
def write_lap(
    rows: U8, payload_at: int, payload: U8, value_at: int, devices: I64, ts_ms: int, id_at: int, ids: U16
) -> None:  # fmt: skip
    """Write `payload` (of 80 to 96 bytes) into every row of uint8[n, packet] from `payload_at` on, with the
    device's value at `value_at` in it, and the packet ids at `id_at` (0: none)."""
    n, packet = rows.shape
    flat = rows.reshape(n * packet)
    size = len(payload)
    tail = load64(payload, size - 8)
    for row in range(n):
        at = row * packet + payload_at
        for piece in range(0, 80, 16):
            copy16(payload, piece, flat, at + piece)
        store64(tail, flat, at + size - 8)
        value = expected(int(peek(devices, row)), ts_ms)
        _put(flat, at + value_at, 2, value // 1000)
        _put(flat, at + value_at + 3, 3, value % 1000)
        if id_at:
            packet_id = int(peek(ids, row))
            poke(flat, row * packet + id_at, packet_id >> 8)
            poke(flat, row * packet + id_at + 1, packet_id & 255)


@fused
def _put(out: U8, at: int, width: int, value: int) -> None:
    for i in range(width - 1, -1, -1):
        poke(out, at + i, 48 + value % 10)
        value //= 10


@fused
def _judge(
    device: int, site: int, ts_ns: int, value: int, start_ms: int, next_lap: I64, ahead: U64
) -> int:
    if device < 0 or device >= len(next_lap) or site != device % 4 or value < 0:
        return MALFORMED
    ts_ms = ts_ns // 1_000_000
    if ts_ns % 1_000_000 != 0 or ts_ms <= start_ms or (ts_ms - start_ms) % LAP_MS != 0:
        return MALFORMED
    if value != expected(device, ts_ms):
        return WRONG_VALUE
    return _mark(device, (ts_ms - start_ms) // LAP_MS, next_lap, ahead)


@fused
def _value(buffer: U8, at: int) -> int:
    """`dd.ddd` × 1000, or −1."""
    whole, rest = _number(buffer, at, 2), _number(buffer, at + 3, 3)
    return -1 if whole < 0 or rest < 0 or buffer[at + 2] != 46 else whole * 1000 + rest


@kernel
def check_lines(
    body: U8, length: int, start_ms: int, next_lap: I64, ahead: U64, found: I64
) -> tuple[int, int]:
    """(telemetry lines, other lines) of a body of line protocol; body has 256 spare bytes behind it."""
    lines = others = 0
    at = 0
    while at < length:
        if not _is(body, at, LINE_HEAD):
            others += 1
            while at < length and body[at] != 10:
                at += 1
            at += 1
            continue
        lines += 1
        device = _number(body, at + 18, 5)
        good = _is(body, at + 23, LINE_TAGS)
        site = _number(body, at + 39, 2)
        good &= _is(body, at + 41, LINE_FIELD)
        value = _value(body, at + 65)
        at += 71
        if body[at] == 44:
            good &= _is(body, at, LINE_SCORE) and (body[at + 19] == 48 or body[at + 19] == 49)
            good &= body[at + 20] == 46 and _number(body, at + 21, 6) >= 0
            at += 27
        good &= body[at] == 32
        ts = _number(body, at + 1, 19)
        good &= body[at + 20] == 10
        at += 21
        result = MALFORMED
        if good and at <= length:
            result = _judge(device, site, ts, value, start_ms, next_lap, ahead)
        found[result] += 1
        if result == MALFORMED:  # go on behind this line's end, wherever it is
            at -= 21
            while at < length and body[at] != 10:
                at += 1
            at += 1
    return lines, others


@fused
def _varint(buffer: U8, at: int) -> tuple[int, int]:
    """(zigzag decoded, position behind it)."""
    value = shift = 0
    while shift < 63:
        byte = int(buffer[at])
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    return (value >> 1) ^ -(value & 1), at


@fused
def _record(
    batch: U8, at: int, stop: int, order: int, base_ms: int, first_seq: int, start_ms: int,
    next_lap: I64, ahead: U64,
) -> int:  # fmt: skip
    """Check the record at…stop (behind its length)."""
    delta_ms, at = _varint(batch, at + 1)
    number, at = _varint(batch, at)
    key_size, at = _varint(batch, at)
    if number != order or key_size != 6 or batch[at] != 100:
        return MALFORMED
    key = _number(batch, at + 1, 5)
    size, at = _varint(batch, at + 6)
    if at + size + 1 != stop or batch[at + size] != 0 or not _is(batch, at, RECORD_HEAD):
        return MALFORMED
    site = _number(batch, at + 29, 2)
    good = _is(batch, at + 31, RECORD_DEVICE)
    device = _number(batch, at + 44, 5)
    good &= _is(batch, at + 49, RECORD_TS)
    at += 49 + len(RECORD_TS)
    ts = _number(batch, at, 19)
    good &= _is(batch, at + 19, RECORD_VALUE)
    value = _value(batch, at + 28)
    good &= _is(batch, at + 34, RECORD_SEQ)
    seq = _number(batch, at + 41, 8)
    good &= _is(batch, at + 49, RECORD_SCORE)
    good &= (batch[at + 58] == 48 or batch[at + 58] == 49) and batch[at + 59] == 46
    good &= _number(batch, at + 60, 6) >= 0
    good &= _is(batch, at + 66, RECORD_VERDICT) and batch[stop - 2] == 125
    ts_ms = ts // 1_000_000
    good &= seq - first_seq == (ts_ms - start_ms) // LAP_MS and base_ms + delta_ms == ts_ms
    if not good or device != key:
        return MALFORMED
    return _judge(device, site, ts, value, start_ms, next_lap, ahead)


@kernel
def check_records(
    batch: U8, at: int, stop: int, base_ms: int, first_seq: int, start_ms: int,
    next_lap: I64, ahead: U64, found: I64,
) -> int:  # fmt: skip
    """The records in batch[at:stop] of an uncompressed record batch."""
    records = 0
    while at < stop:
        size, at = _varint(batch, at)
        if size <= 0 or at + size > stop:
            found[MALFORMED] += 1
            break
        found[
            _record(batch, at, at + size, records, base_ms, first_seq, start_ms, next_lap, ahead)
        ] += 1
        records += 1
        at += size
    return records
