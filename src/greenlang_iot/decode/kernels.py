"""The fast path: one call scans the payloads of a batch straight into the columns of its rows.

It takes flat objects, `{"ts", "metric", "value", …}` and `{"ts", "values": {…}, …}`, in any order of
keys, whose readings are all good. Anything else, be it wrong or merely unusual, it leaves to the
general path, so that everything is decided in exactly one place.

Tables of the Directory (see `tables.py`), per series s and per text t:
  meta[2s], meta[2s + 1]    metric (−1: disabled) and unit
  bounds[2s], bounds[2s + 1]  valid range
  head[t]                   the first 8 bytes of the text, zeros behind its end
  blob[off[t]:off[t + 1]]   its bytes; the blob has 8 spare bytes at its end
"""

import numpy as np

from greenlang_iot.decode.kernels_json import (
    ANY_TEXT,
    ASCII_TEXT,
    epoch_ns,
    iso_ns,
    number,
    skip_scalar,
    skip_space,
    text_end,
    to_float,
)
from greenlang_iot.decode.kernels_topics import same_bytes
from greenlang_iot.decode.kernels_words import load64
from greenlang_iot.model.batches import F64, I16, I32, I64, U8, U16, U64
from greenlang_iot.model.flags import FRAME_RETAIN, HAS_SEQ, RETAINED
from greenlang_iot.model.jit import inlined, kernel

_TS, _METRIC, _VALUE, _UNIT, _SEQ, _VALUES = 1, 2, 4, 8, 16, 32


def _name(text: bytes) -> tuple[np.uint64, np.uint64]:
    """(mask, word) of a key and its closing quote in an 8-byte load."""
    text += b'"'
    return np.uint64((1 << 8 * len(text)) - 1), np.uint64(int.from_bytes(text, "little"))


_TS_MASK, _TS_WORD = _name(b"ts")
_SEQ_MASK, _SEQ_WORD = _name(b"seq")
_UNIT_MASK, _UNIT_WORD = _name(b"unit")
_VALUE_MASK, _VALUE_WORD = _name(b"value")
_METRIC_MASK, _METRIC_WORD = _name(b"metric")
_VALUES_MASK, _VALUES_WORD = _name(b"values")

_ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_64 = np.uint64(64)
_MOST_VALUES = 64  # series of a device that one `values` object may address here


@inlined
def _key(buffer: U8, i: int) -> tuple[int, int]:
    """(which key begins at `i`, its length with the closing quote); (0, 0) for any other."""
    word = load64(buffer, i)
    if word & _TS_MASK == _TS_WORD:
        return _TS, 3
    if word & _VALUE_MASK == _VALUE_WORD:
        return _VALUE, 6
    if word & _METRIC_MASK == _METRIC_WORD:
        return _METRIC, 7
    if word & _SEQ_MASK == _SEQ_WORD:
        return _SEQ, 4
    if word & _UNIT_MASK == _UNIT_WORD:
        return _UNIT, 5
    if word & _VALUES_MASK == _VALUES_WORD:
        return _VALUES, 7
    return 0, 0


@inlined
def _same_text(buffer: U8, at: int, length: int, t: int, blob: U8, off: I64, head: U64) -> bool:
    """Whether `buffer[at:at + length]` is text `t`."""
    word = load64(buffer, at)
    if length < 8:
        word = word & (_ALL >> (_64 - np.uint64(8 * length))) if length > 0 else np.uint64(0)
    if word != head[t] or off[t + 1] - off[t] != length:
        return False
    return length <= 8 or same_bytes(buffer, at + 8, blob, off[t] + 8, length - 8)


@inlined
def _find_series(
    buffer: U8, at: int, length: int, first: int, last: int, hint: int,
    meta: I32, blob: U8, off: I64, head: U64,
) -> int:  # fmt: skip
    """The series in `first:last` whose metric is `buffer[at:at + length]`, or −1; tries `hint` first."""
    s = hint
    for _ in range(last - first):
        if s >= last:
            s = first
        t = meta[2 * s]
        if t >= 0 and _same_text(buffer, at, length, t, blob, off, head):
            return s
        s += 1
    return -1


@inlined
def _values(
    buffer: U8, i: int, end: int, first: int, last: int, row: int,
    meta: I32, bounds: F64, blob: U8, off: I64, head: U64,
    series: I32, value: F64, text_off: I32, text_len: I16,
) -> tuple[int, int]:  # fmt: skip
    """(position behind a `values` object, row behind its readings), or (−1, …)."""
    if i >= end or buffer[i] != 123 or last - first > _MOST_VALUES:
        return -1, row
    i = skip_space(buffer, i + 1, end)
    if buffer[i] == 125:
        return i + 1, row
    seen = 0
    hint = first
    while i < end and buffer[i] == 34:
        at = i + 1
        i = text_end(buffer, at, end, ANY_TEXT)
        if i < 0:
            return -1, row
        s = _find_series(buffer, at, i - at, first, last, hint, meta, blob, off, head)
        i = skip_space(buffer, i + 1, end)
        if s < 0 or seen >> (s - first) & 1 or buffer[i] != 58:
            return -1, row
        seen |= 1 << (s - first)
        hint = s + 1
        at = skip_space(buffer, i + 1, end)
        i, mantissa, exponent, real, negative = number(buffer, at, end)
        good, x = to_float(mantissa, exponent, real, negative)
        if i < 0 or not good or not bounds[2 * s] <= x <= bounds[2 * s + 1]:
            return -1, row
        series[row], value[row], text_off[row], text_len[row] = s, x, at, i - at
        row += 1
        i = skip_space(buffer, i, end)
        if buffer[i] == 125:
            return i + 1, row
        if buffer[i] != 44:
            return -1, row
        i = skip_space(buffer, i + 1, end)
    return -1, row


@inlined
def _message(
    buffer: U8, i: int, end: int, first: int, last: int, row: int,
    meta: I32, bounds: F64, metric_blob: U8, metric_off: I64, metric_head: U64,
    unit_blob: U8, unit_off: I64, unit_head: U64,
    oldest: int, newest: int, receive: int, has_receive: bool, base: int, frame: int,
    series: I32, ts_ns: I64, value: F64, seq: I64, flags: U16, out_frame: I32,
    text_off: I32, text_len: I16,
) -> int:  # fmt: skip
    """The row behind the readings of one payload, or −1 where it is for the general path."""
    i = skip_space(buffer, i, end)
    if i >= end or buffer[i] != 123:
        return -1
    seen = 0
    ts = receive
    number_seq = 0
    metric_at = metric_len = unit_at = unit_len = 0
    x = 0.0
    stop = row
    while True:
        i = skip_space(buffer, i + 1, end)
        if i >= end or buffer[i] != 34:
            return -1
        key, length = _key(buffer, i + 1)
        i = i + length if key else text_end(buffer, i + 1, end, ASCII_TEXT)
        if i < 0 or seen & key:
            return -1
        seen |= key
        i = skip_space(buffer, i + 1, end)
        if buffer[i] != 58:
            return -1
        i = skip_space(buffer, i + 1, end)
        if i >= end:
            return -1
        if key == _TS and buffer[i] == 34:
            i, ts = iso_ns(buffer, i + 1)
        elif key == _VALUES:
            i, stop = _values(
                buffer, i, end, first, last, row, meta, bounds, metric_blob, metric_off,
                metric_head, series, value, text_off, text_len,
            )  # fmt: skip
        elif key & (_METRIC | _UNIT):
            at = i + 1
            i = text_end(buffer, at, end, ANY_TEXT) if buffer[i] == 34 else -1
            if i < 0:
                return -1
            if key == _METRIC:
                metric_at, metric_len = at, i - at
            else:
                unit_at, unit_len = at, i - at
            i += 1
        elif key == 0:
            i = skip_scalar(buffer, i, end)
        else:
            at = i
            i, mantissa, exponent, real, negative = number(buffer, i, end)
            if i < 0:
                return -1
            if key == _VALUE:
                good, x = to_float(mantissa, exponent, real, negative)
                if not good:
                    return -1
                text_off[row], text_len[row] = at, i - at
            elif key == _TS:
                ts = epoch_ns(mantissa, exponent, real, negative)
                if ts < 0:
                    return -1
            else:
                if real or negative:
                    return -1
                number_seq = mantissa
        if i < 0:
            return -1
        i = skip_space(buffer, i, end)
        if i >= end:
            return -1
        if buffer[i] == 125:
            break
        if buffer[i] != 44:
            return -1
    if skip_space(buffer, i + 1, end) != end or not oldest <= ts <= newest:
        return -1
    if not seen & _TS and not has_receive:
        return -1
    if seen & _VALUES:
        if seen & (_METRIC | _VALUE | _UNIT):
            return -1
    else:
        if seen & (_METRIC | _VALUE) != _METRIC | _VALUE:
            return -1
        s = _find_series(
            buffer, metric_at, metric_len, first, last, first, meta, metric_blob, metric_off,
            metric_head,
        )  # fmt: skip
        if s < 0 or not bounds[2 * s] <= x <= bounds[2 * s + 1]:
            return -1
        if seen & _UNIT and not _same_text(
            buffer, unit_at, unit_len, meta[2 * s + 1], unit_blob, unit_off, unit_head
        ):
            return -1
        series[row], value[row] = s, x
        stop = row + 1
    if seen & _SEQ:
        base |= HAS_SEQ
    for r in range(row, stop):
        ts_ns[r], seq[r], flags[r], out_frame[r] = ts, number_seq, base, frame
    return stop


@kernel
def scan(
    n: int, buffer: U8, payload_off: I32, payload_len: I32, frame_flags: U8, device: I32,
    series_start: I64, meta: I32, bounds: F64, metric_blob: U8, metric_off: I64, metric_head: U64,
    unit_blob: U8, unit_off: I64, unit_head: U64,
    max_payload: int, max_readings: int, oldest: int, newest: int, receive: int, has_receive: bool,
    base: int, rest: I32,
    series: I32, ts_ns: I64, value: F64, seq: I64, flags: U16, out_frame: I32,
    text_off: I32, text_len: I16,
) -> tuple[int, int]:  # fmt: skip
    """(rows written, frames left to the general path, whose numbers are written to `rest`).

    device: per frame, −1 where the topic is not known. base: flags of every row. receive: the time
    stamp of a reading that has none, if has_receive. The row columns need room for one row per
    frame and one per 5 bytes of payload; `rest` for n.
    """
    row = left = 0
    for f in range(n):
        d = device[f]
        stop = -1
        if d >= 0 and payload_len[f] <= max_payload:
            i = payload_off[f]
            stop = _message(
                buffer, i, i + payload_len[f], series_start[d], series_start[d + 1], row,
                meta, bounds, metric_blob, metric_off, metric_head, unit_blob, unit_off, unit_head,
                oldest, newest, receive, has_receive,
                base | RETAINED if frame_flags[f] & FRAME_RETAIN else base, f,
                series, ts_ns, value, seq, flags, out_frame, text_off, text_len,
            )  # fmt: skip
        if stop < 0 or stop - row > max_readings:
            rest[left] = f
            left += 1
        else:
            row = stop
    return row, left
