"""Kernels of the Kafka record encoder: columns → records of a record batch (magic 2).

Texts come as a blob with an offsets column; every output array is the caller's. A record is
`length varint · attributes 0 · timestampDelta varlong · offsetDelta varint · keyLength varint · key ·
valueLength varint · value · headers 0`; all varints are zigzag.
"""

import numpy as np

from greenlang_iot.encode.kernels_copy import SPILL, copy_bytes
from greenlang_iot.encode.kernels_digits import integer_size, put_eight_digits, put_integer
from greenlang_iot.model.batches import F32, I16, I32, I64, U8, U16
from greenlang_iot.model.flags import DUPLICATE, HAS_SEQ, TEXT_IN_ARENA
from greenlang_iot.model.jit import fused, kernel, leaf
from greenlang_iot.model.kernels_prefetch import AHEAD, prefetch

HEADER = 61
"""Bytes of a record batch before its first record."""

SCORE_TEXT = 8
"""Bytes of a score: `0.dddddd` or `1.000000`."""

_LN10 = float(np.log(10.0))  # exp takes half the time of a power of ten
_VALUE_SIZE, _SEQ_SIZE, _SCORE_SIZE = len(',"value":'), len(',"seq":'), len(',"score":')
_VALUE = np.frombuffer(b',"value":' + bytes(SPILL), np.uint8)
_SEQ = np.frombuffer(b',"seq":' + bytes(SPILL), np.uint8)
_SCORE = np.frombuffer(b',"score":' + bytes(SPILL), np.uint8)
_FIXED = _VALUE_SIZE + _SCORE_SIZE + SCORE_TEXT

PLACE = 4
"""Words of a device's row in `place`: where its texts begin, where its key ends, where they end, and its
partition; together in one cache line."""


@leaf
def _zigzag(value: int) -> int:
    return (value << 1) ^ (value >> 63)


@leaf
def _varint_size(value: int) -> int:
    """Bytes of the varint of an already zigzagged value ≥ 0."""
    size = 1
    while value > 127:
        value >>= 7
        size += 1
    return size


@leaf
def _put_varint(out: U8, pos: int, value: int) -> int:
    while value > 127:
        out[pos] = (value & 127) | 128
        value >>= 7
        pos += 1
    out[pos] = value
    return pos + 1


@kernel
def partitions_of(blob: U8, off: I64, partitions: int, out: I32) -> None:
    """out[i] = the partition Java's default partitioner gives key i: (murmur2 & 0x7fffffff) % n."""
    m = 0x5BD1E995  # < 2**31, so that a 32-bit word × m fits into int64: masks keep 32 bits
    for key in range(len(off) - 1):
        start = int(off[key])
        size = int(off[key + 1]) - start
        h = 0x9747B28C ^ size
        whole = start + (size & ~3)
        for i in range(start, whole, 4):
            k = (
                int(blob[i])
                | int(blob[i + 1]) << 8
                | int(blob[i + 2]) << 16
                | int(blob[i + 3]) << 24
            )
            k = (k * m) & 0xFFFFFFFF
            k ^= k >> 24
            k = (k * m) & 0xFFFFFFFF
            h = ((h * m) & 0xFFFFFFFF) ^ k
        rest = size & 3
        if rest == 3:
            h ^= int(blob[whole + 2]) << 16
        if rest >= 2:
            h ^= int(blob[whole + 1]) << 8
        if rest >= 1:
            h = ((h ^ int(blob[whole])) * m) & 0xFFFFFFFF
        h ^= h >> 13
        h = (h * m) & 0xFFFFFFFF
        h ^= h >> 15
        out[key] = (h & 0x7FFFFFFF) % partitions


@kernel
def device_texts(
    key_blob: U8,
    key_off: I64,
    name_blob: U8,
    name_off: I64,
    place: I32,
    place_blob: U8,
    place_off: I64,
    kind: I32,
    kind_blob: U8,
    kind_off: I64,
    off: I64,
    out: U8,
    key_size: I32,
) -> None:
    """Per device: key length varint + key (`key_size` bytes), then place + escaped name + kind."""
    for d in range(len(place)):
        pos = int(off[d])
        start, stop = int(key_off[d]), int(key_off[d + 1])
        pos = _put_varint(out, pos, _zigzag(stop - start))
        pos = copy_bytes(key_blob, start, stop, out, pos)
        key_size[d] = pos - off[d]
        p = int(place[d])
        pos = copy_bytes(place_blob, int(place_off[p]), int(place_off[p + 1]), out, pos)
        pos = copy_bytes(name_blob, int(name_off[d]), int(name_off[d + 1]), out, pos)
        k = int(kind[d])
        copy_bytes(kind_blob, int(kind_off[k]), int(kind_off[k + 1]), out, pos)


@fused
def _ask_ahead(
    row: int, n: int, series: I32, series_device: I32, series_metric: I32, series_unit: I32,
    place: I64, device_blob: U8,
) -> None:  # fmt: skip
    if row + 3 * AHEAD < n:
        s = series[row + 3 * AHEAD]
        prefetch(series_device, s)
        prefetch(series_metric, s)
        prefetch(series_unit, s)
        prefetch(place, PLACE * series_device[series[row + 2 * AHEAD]])
        off = place[PLACE * series_device[series[row + AHEAD]]]
        prefetch(device_blob, off)
        prefetch(device_blob, off + 64)


@kernel
def append_records(
    start: int,
    n: int,
    series: I32,
    ts_ns: I64,
    seq: I64,
    flags: U16,
    text_off: I32,
    text_len: I16,
    buffer: U8,
    arena: U8,
    score: F32,
    verdict: U8,
    series_device: I32,
    series_metric: I32,
    series_unit: I32,
    place: I64,
    device_blob: U8,
    metric_blob: U8,
    metric_off: I64,
    unit_blob: U8,
    unit_off: I64,
    tail_blob: U8,
    tail_off: I64,
    stride: int,
    max_batch_bytes: int,
    out: U8,
    cursor: I64,
    count: I64,
    base_ms: I64,
    max_ms: I64,
) -> int:
    """Append rows start..n to the open batch of their partition; skip DUPLICATE rows.

    place: PLACE words per device. All blobs, buffers and `out` have 64 bytes to spare at their end.
    Partition p owns out[p × stride : (p + 1) × stride]; its header's place comes first. Returns n, or
    the first row whose partition's batch would exceed `max_batch_bytes`: close it and call again. A
    batch of one record may exceed it (stride has room for the longest record).
    """
    for row in range(start, n):
        _ask_ahead(row, n, series, series_device, series_metric, series_unit, place, device_blob)
        flag = int(flags[row])
        if flag & DUPLICATE:
            continue
        s = int(series[row])
        d = int(series_device[s])
        metric = int(series_metric[s])
        unit = int(series_unit[s])
        tail = int(verdict[row]) & 7
        p = int(place[PLACE * d + 3])
        ts = int(ts_ns[row])
        ms = ts // 1_000_000
        if count[p] == 0:
            base_ms[p] = ms
            max_ms[p] = ms
        delta = _zigzag(ms - int(base_ms[p]))
        order = int(count[p]) << 1
        d0 = int(place[PLACE * d])
        d1 = int(place[PLACE * d + 1])
        d2 = int(place[PLACE * d + 2])
        m0 = int(metric_off[metric])
        m1 = int(metric_off[metric + 1])
        u0 = int(unit_off[unit])
        u1 = int(unit_off[unit + 1])
        t0 = int(tail_off[tail])
        t1 = int(tail_off[tail + 1])
        text = int(text_len[row])
        ts_size = integer_size(ts)
        seq_size = 0
        size = d2 - d1 + m1 - m0 + u1 - u0 + ts_size + text + t1 - t0 + _FIXED
        if flag & HAS_SEQ:
            seq_size = integer_size(int(seq[row]))
            size += _SEQ_SIZE + seq_size
        body = (
            2  # attributes and the number of headers
            + _varint_size(delta)
            + _varint_size(order)
            + d1
            - d0
            + _varint_size(size << 1)
            + size
        )
        pos = int(cursor[p])
        if count[p] > 0 and pos - p * stride + _varint_size(body << 1) + body > max_batch_bytes:
            return row

        pos = _put_varint(out, pos, body << 1)
        out[pos] = 0
        pos = _put_varint(out, pos + 1, delta)
        pos = _put_varint(out, pos, order)
        pos = copy_bytes(device_blob, d0, d1, out, pos)
        pos = _put_varint(out, pos, size << 1)
        pos = copy_bytes(device_blob, d1, d2, out, pos)
        pos = copy_bytes(metric_blob, m0, m1, out, pos)
        pos = copy_bytes(unit_blob, u0, u1, out, pos)
        pos = put_integer(ts, out, pos)
        pos = copy_bytes(_VALUE, 0, _VALUE_SIZE, out, pos)
        text0 = int(text_off[row])
        if flag & TEXT_IN_ARENA:
            pos = copy_bytes(arena, text0, text0 + text, out, pos)
        else:
            pos = copy_bytes(buffer, text0, text0 + text, out, pos)
        if flag & HAS_SEQ:
            pos = copy_bytes(_SEQ, 0, _SEQ_SIZE, out, pos)
            pos = put_integer(int(seq[row]), out, pos)
        pos = copy_bytes(_SCORE, 0, _SCORE_SIZE, out, pos)
        millionths = int(np.floor((1.0 - np.exp(-_LN10 * float(score[row]))) * 1e6 + 0.5))
        put_eight_digits(millionths, out, pos)
        out[pos] = 48 + (millionths >= 1_000_000)
        out[pos + 1] = 46
        pos = copy_bytes(tail_blob, t0, t1, out, pos + SCORE_TEXT)
        out[pos] = 0
        cursor[p] = pos + 1
        for line in range(192, 448, 64):  # where this partition's next records go
            prefetch(out, pos + line)
        count[p] += 1
        if ms > max_ms[p]:
            max_ms[p] = ms
    return n
