"""Kernels of the Kafka record encoder: columns → records of a record batch (magic 2).

Texts come as a blob with an offsets column; every output array is the caller's. A record is
`length varint · attributes 0 · timestampDelta varlong · offsetDelta varint · keyLength varint · key ·
valueLength varint · value · headers 0`; all varints are zigzag.
"""

import numpy as np

from greenlang_iot.encode.kernels_copy import SPILL, copy_bytes
from greenlang_iot.encode.kernels_digits import integer_size, put_eight_digits, put_integer
from greenlang_iot.encode.kernels_texts import STEP
from greenlang_iot.model.batches import F32, I16, I32, I64, U8, U16, U32
from greenlang_iot.model.flags import DUPLICATE, HAS_SEQ, TEXT_IN_ARENA
from greenlang_iot.model.jit import fused, kernel
from greenlang_iot.model.kernels_log import exp_down
from greenlang_iot.model.kernels_prefetch import AHEAD, prefetch
from greenlang_iot.model.kernels_words import copy16, peek, poke

PIECE, HEADER = 12, 61
"""Bytes of a body before a record batch (see `bodies`), and of a record batch before its first record."""

SCORE_TEXT = 8
"""Bytes of a score: `0.dddddd` or `1.000000`."""

_LN10 = float(np.log(10.0))
_VALUE_SIZE, _SEQ_SIZE, _SCORE_SIZE = len(',"value":'), len(',"seq":'), len(',"score":')
_VALUE = np.frombuffer(b',"value":' + bytes(SPILL), np.uint8)
_SEQ = np.frombuffer(b',"seq":' + bytes(SPILL), np.uint8)
_SCORE = np.frombuffer(b',"score":' + bytes(SPILL), np.uint8)
_FIXED = _VALUE_SIZE + _SCORE_SIZE + SCORE_TEXT


@fused
def _zigzag(value: int) -> int:
    return (value << 1) ^ (value >> 63)


@fused
def _varint_size(value: int) -> int:
    """Bytes of the varint of an already zigzagged value ≥ 0."""
    size = 1 + (value > 127) + (value > 16_383)
    value >>= 21
    while value > 0:
        value >>= 7
        size += 1
    return size


@fused
def _put_varint(out: U8, pos: int, value: int) -> int:
    while value > 127:
        poke(out, pos, (value & 127) | 128)
        value >>= 7
        pos += 1
    poke(out, pos, value)
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


@fused
def _ask_ahead(
    row: int, n: int, series: I32, place: U32, blob: U8, text_off: I32, buffer: U8
) -> None:
    if row + 3 * AHEAD < n:
        prefetch(buffer, int(peek(text_off, row + 2 * AHEAD)))
        prefetch(place, 2 * int(peek(series, row + 3 * AHEAD)))
        text = STEP * int(peek(place, 2 * int(peek(series, row + AHEAD))))
        prefetch(blob, text)
        prefetch(blob, text + 64)
        prefetch(blob, text + 111)


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
    place: U32,
    blob: U8,
    heads: U32,
    tail_blob: U8,
    tail_off: I64,
    stride: int,
    max_batch_bytes: int,
    out: U8,
    cursor: I64,
    count: I64,
    base_ms: I64,
    max_ms: I64,
    millionths: I32,
) -> int:
    """Append rows start..n to the open batch of their partition; skip DUPLICATE rows.

    place, blob, heads: see `texts.SeriesTexts`; a device's number is its partition. All blobs, buffers
    and `out` have 64 bytes to spare at their end.
    Partition p owns out[p × stride : (p + 1) × stride]; what stands before its records comes first. Returns n, or
    the first row whose partition's batch would exceed `max_batch_bytes`: close it and call again. A
    batch of one record may exceed it (stride has room for the longest record).
    millionths: scratch, n; the scores as they are written, in a loop of its own that becomes vector instructions.
    """
    for row in range(start, n):
        share = 1.0 - exp_down(_LN10 * np.float64(peek(score, row)))
        poke(millionths, row, np.int32(share * 1e6 + 0.5))
    for row in range(start, n):
        _ask_ahead(row, n, series, place, blob, text_off, buffer)
        flag = int(peek(flags, row))
        if flag & DUPLICATE:
            continue
        s = int(peek(series, row))
        device = int(peek(place, 2 * s))
        metric = int(peek(place, 2 * s + 1))
        key_size = int(peek(heads, 4 * device))
        device_size = int(peek(heads, 4 * device + 1))
        p = int(peek(heads, 4 * device + 2))
        metric_size = int(peek(heads, 4 * metric))
        tail = int(peek(verdict, row)) & 7
        tail_at = int(peek(tail_off, tail))
        tail_size = int(peek(tail_off, tail + 1)) - tail_at
        ts = int(peek(ts_ns, row))
        ms = ts // 1_000_000
        records = int(peek(count, p))
        if records == 0:
            poke(base_ms, p, ms)
            poke(max_ms, p, ms)
        delta = _zigzag(ms - int(peek(base_ms, p)))
        order = records << 1
        text = int(peek(text_len, row))
        number = int(peek(seq, row))
        size = device_size + metric_size + integer_size(ts) + text + tail_size + _FIXED
        if flag & HAS_SEQ:
            size += _SEQ_SIZE + integer_size(number)
        body = (
            2  # attributes and the number of headers
            + _varint_size(delta)
            + _varint_size(order)
            + key_size
            + _varint_size(size << 1)
            + size
        )
        pos = int(peek(cursor, p))
        taken = pos - p * stride - PIECE + _varint_size(body << 1) + body
        if records > 0 and taken > max_batch_bytes:
            return row

        pos = _put_varint(out, pos, body << 1)
        poke(out, pos, 0)
        pos = _put_varint(out, pos + 1, delta)
        pos = _put_varint(out, pos, order)
        at = STEP * device + STEP
        pos = copy_bytes(blob, at, key_size, out, pos)
        pos = _put_varint(out, pos, size << 1)
        pos = copy_bytes(blob, at + key_size, device_size, out, pos)
        pos = copy_bytes(blob, STEP * metric + STEP, metric_size, out, pos)
        pos = put_integer(ts, out, pos)
        copy16(_VALUE, 0, out, pos)
        pos += _VALUE_SIZE
        if flag & TEXT_IN_ARENA:
            pos = copy_bytes(arena, int(peek(text_off, row)), text, out, pos)
        else:
            pos = copy_bytes(buffer, int(peek(text_off, row)), text, out, pos)
        if flag & HAS_SEQ:
            copy16(_SEQ, 0, out, pos)
            pos = put_integer(number, out, pos + _SEQ_SIZE)
        copy16(_SCORE, 0, out, pos)
        pos += _SCORE_SIZE
        digits = int(peek(millionths, row))
        put_eight_digits(digits, out, pos)
        poke(out, pos, 48 + (digits >= 1_000_000))
        poke(out, pos + 1, 46)
        pos = copy_bytes(tail_blob, tail_at, tail_size, out, pos + SCORE_TEXT)
        poke(out, pos, 0)
        poke(cursor, p, pos + 1)
        for line in range(192, 448, 64):  # where this partition's next records go
            prefetch(out, pos + line)
        poke(count, p, records + 1)
        if ms > int(peek(max_ms, p)):
            poke(max_ms, p, ms)
    return n


@fused
def _put_big_endian(out: U8, pos: int, value: int, size: int) -> int:
    for i in range(size):
        poke(out, pos + i, (value >> (8 * (size - 1 - i))) & 255)
    return pos + size


@kernel
def write_heads(
    first: int,
    count: I64,
    codec: U8,
    start: I64,
    cursor: I64,
    base_ms: I64,
    max_ms: I64,
    out: U8,
) -> None:
    """Before the records of each partition that has some, what `bodies` wants there: a piece's head and a header.

    Per partition from `first` on: records, compression codec, where its records begin and end in `out`, the first one's time stamp
    and the newest. Producer id, epoch, base sequence and CRC are the sender's.
    """
    for p in range(len(count)):
        if count[p] == 0:
            continue
        length = int(cursor[p] - start[p]) + HEADER
        pos = int(start[p]) - HEADER - PIECE
        for value in (first + p, int(count[p]), length):
            for i in range(4):  # little endian
                poke(out, pos + i, (value >> (8 * i)) & 255)
            pos += 4
        pos = _put_big_endian(out, pos, 0, 8)  # base offset
        pos = _put_big_endian(out, pos, length - 12, 4)  # what follows
        pos = _put_big_endian(out, pos, -1, 4)  # leader epoch
        pos = _put_big_endian(out, pos, 2, 1)  # magic
        pos = _put_big_endian(out, pos, 0, 4)  # CRC
        pos = _put_big_endian(out, pos, int(codec[p]), 2)
        pos = _put_big_endian(out, pos, int(count[p]) - 1, 4)
        pos = _put_big_endian(out, pos, int(base_ms[p]), 8)
        pos = _put_big_endian(out, pos, int(max_ms[p]), 8)
        pos = _put_big_endian(out, pos, -1, 8)  # producer id
        pos = _put_big_endian(out, pos, -1, 2)  # and epoch
        pos = _put_big_endian(out, pos, -1, 4)  # base sequence
        _put_big_endian(out, pos, int(count[p]), 4)
