"""The fast path: one call scans the payloads of a batch straight into the columns of its rows.

It takes objects, `{"ts", "metric", "value", …}` and `{"ts", "values": {…}, …}`, in any order of
keys and with any others beside them, and arrays of them, whose readings are all good. Anything else, be it wrong or merely unusual, it
leaves to the general path, so that everything is decided in exactly one place.

An object's fields come first into a small scratch array, `fields`:
  fields[0..4]        bits of the keys seen, ts (ns), seq, position and length of the unit's text
  fields[8 + 4k …]    reading k: position and length of its metric's name and of its value's text
  fields[MARKS …]     where its numbers and its time stamp stand (see `kernels_layouts`)
and its values into `numbers`. Then they are checked against the tables of the Directory (`tables.py`).

A device writes the same message again and again with other numbers in it. So the layout of a message is
learnt, and the next one is compared with the layout that is expected of the device before it is scanned.
"""

import numpy as np

from greenlang_iot.decode.kernels_json import (
    ANY_TEXT,
    ASCII_TEXT,
    epoch_ns,
    iso_ns,
    number,
    skip_space,
    text_end,
    to_float,
)
from greenlang_iot.decode.kernels_layouts import (
    HIGH,
    ISO,
    LINE,
    LOW,
    MARKS,
    MOST_MARKS,
    READINGS,
    SEQ,
    TS,
    VALUE,
    expected,
    follow,
    mark,
    miss,
)
from greenlang_iot.decode.kernels_skip import skip_value
from greenlang_iot.decode.kernels_topics import same_bytes
from greenlang_iot.model.batches import F64, I16, I32, I64, U8, U16, U64
from greenlang_iot.model.flags import FRAME_RETAIN, HAS_SEQ, RETAINED
from greenlang_iot.model.jit import fused, kernel, leaf
from greenlang_iot.model.kernels_prefetch import AHEAD, prefetch
from greenlang_iot.model.kernels_words import load8, load64, peek, poke, signed

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
_MOST = 64  # readings of an object that are taken here, and series of a device
_AT = READINGS
FIELDS = MARKS + 1 + 3 * MOST_MARKS
"""Length of the scratch array `fields`; `numbers` has one entry for each reading."""
NUMBERS = _MOST
METRIC_TEXT, UNIT_TEXT = 0, 3
assert MARKS == _AT + 4 * _MOST


@fused
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


@leaf
def _values(buffer: U8, i: int, end: int, fields: I64, numbers: F64) -> tuple[int, int]:
    """(position behind a `values` object, its readings), or (−1, …)."""
    count = 0
    if load8(buffer, i) != 123:
        return -1, 0
    i = skip_space(buffer, i + 1, end)
    if load8(buffer, i) == 125:
        return i + 1, 0
    while i < end and load8(buffer, i) == 34 and count < _MOST:
        field = _AT + 4 * count
        fields[field] = i + 1
        i = text_end(buffer, i + 1, end, ANY_TEXT)
        if i < 0:
            break
        fields[field + 1] = i - fields[field]
        i = skip_space(buffer, i + 1, end)
        if load8(buffer, i) != 58:
            break
        at = skip_space(buffer, i + 1, end)
        i, mantissa, exponent, real, negative = number(buffer, at, end)
        good, numbers[count] = to_float(mantissa, exponent, real, negative)
        if i < 0 or not good:
            break
        fields[field + 2] = at
        fields[field + 3] = i - at
        mark(fields, at, i, VALUE + count)
        count += 1
        i = skip_space(buffer, i, end)
        c = load8(buffer, i)
        if c == 125:
            return i + 1, count
        if c != 44:
            break
        i = skip_space(buffer, i + 1, end)
    return -1, 0


@fused
def _text(buffer: U8, i: int, end: int, fields: I64, field: int) -> int:
    """Position behind the string at `i`, whose place is written to `fields[field:field + 2]`, or −1."""
    if load8(buffer, i) != 34:
        return -1
    stop = text_end(buffer, i + 1, end, ANY_TEXT)
    fields[field] = i + 1
    fields[field + 1] = stop - i - 1
    return -1 if stop < 0 else stop + 1


@fused
def _number_member(buffer: U8, i: int, end: int, key: int, fields: I64, numbers: F64) -> int:
    """Position behind the number of a `ts`, `value` or `seq`, or −1."""
    stop, mantissa, exponent, real, negative = number(buffer, i, end)
    if stop < 0:
        return -1
    if key == _VALUE:
        good, numbers[0] = to_float(mantissa, exponent, real, negative)
        fields[_AT + 2] = i
        fields[_AT + 3] = stop - i
        mark(fields, i, stop, VALUE)
        return stop if good else -1
    if key == _TS:
        mark(fields, i, stop, TS)
        fields[1] = epoch_ns(mantissa, exponent, real, negative)
        return stop if fields[1] >= 0 else -1
    fields[2] = mantissa
    mark(fields, i, stop, SEQ)
    return -1 if real or negative else stop


@fused
def _object(buffer: U8, i: int, end: int, fields: I64, numbers: F64) -> tuple[int, int]:
    """(position behind the object at `i`, its readings), or (…, −1) where it is for the general path."""
    seen = 0
    count = 1
    fields[MARKS] = 0
    if i >= end or load8(buffer, i) != 123:
        return i, -1
    while True:
        i = skip_space(buffer, i + 1, end)
        if i >= end or load8(buffer, i) != 34:
            return i, -1
        key, length = _key(buffer, i + 1)
        i = i + length if key else text_end(buffer, i + 1, end, ASCII_TEXT)
        if i < 0 or seen & key:
            return i, -1
        seen |= key
        i = skip_space(buffer, i + 1, end)
        if load8(buffer, i) != 58:
            return i, -1
        i = skip_space(buffer, i + 1, end)
        if i >= end:
            return i, -1
        at = i
        if key == _TS and load8(buffer, i) == 34:
            i, fields[1] = iso_ns(buffer, i + 1)
            mark(fields, at, i, ISO)
        elif key & (_TS | _VALUE | _SEQ):
            i = _number_member(buffer, i, end, key, fields, numbers)
        elif key == _METRIC:
            i = _text(buffer, i, end, fields, _AT)
        elif key == _UNIT:
            i = _text(buffer, i, end, fields, 3)
        elif key == _VALUES:
            i, count = _values(buffer, i, end, fields, numbers)
        else:
            i = skip_value(buffer, i, end, fields)
        if i < 0:
            return i, -1
        i = skip_space(buffer, i, end)
        c = load8(buffer, i)
        if c != 44:
            break
    fields[0] = seen
    kind = seen & (_METRIC | _VALUE | _UNIT | _VALUES)
    if i >= end or c != 125 or not (kind == _VALUES or kind & ~_UNIT == _METRIC | _VALUE):
        return i, -1
    return i + 1, count


@fused
def _head(buffer: U8, at: int, length: int) -> np.uint64:
    """The first 8 bytes of a text, zeros behind the end of a shorter one."""
    word = load64(buffer, at)
    if length >= 8:
        return word
    return word & (_ALL >> (_64 - np.uint64(8 * length))) if length > 0 else np.uint64(0)


@fused
def _same_text(buffer: U8, at: int, length: int, lines: U64, word: int, blob: U8) -> bool:
    """Whether `buffer[at:at + length]` is the text whose head, length and start are at `word`."""
    if lines[word] != _head(buffer, at, length) or lines[word + 1] != np.uint64(length):
        return False
    return length <= 8 or same_bytes(buffer, at + 8, blob, signed(lines[word + 2]) + 8, length - 8)


@fused
def _find_series(
    buffer: U8, count: int, first: int, last: int, fields: I64, numbers: F64,
    kind: I32, lines: U64, bounds: F64, blob: U8,
) -> bool:  # fmt: skip
    """Write each reading's series (in `first:last`) to `fields`, in place of its metric's position.

    False if a metric or its unit is not the registry's, is there twice, or a value is out of range.
    """
    s = first  # the order of metrics is mostly the registry's
    found = 0
    line = 0
    for k in range(count):
        field = _AT + 4 * k
        at, length = fields[field], fields[field + 1]
        tries = last - first
        while tries > 0:
            if s >= last:
                s = first
            line = LINE * int(peek(kind, s))
            if _same_text(buffer, at, length, lines, line + METRIC_TEXT, blob):
                break
            s += 1
            tries -= 1
        bit = 1 << (s - first)
        x = numbers[k]
        if tries <= 0 or found & bit or not bounds[line + LOW] <= x <= bounds[line + HIGH]:
            return False
        found |= bit
        fields[field] = s
        s += 1
    return fields[0] & _UNIT == 0 or _same_text(
        buffer, fields[3], fields[4], lines, line + UNIT_TEXT, blob
    )


@kernel
def scan(
    n: int, buffer: U8, payload_off: I32, payload_len: I32, frame_flags: U8, device: I32,
    series_start: I64, kind: I32, lines: U64, bounds: F64, blob: U8,
    plans: I64, literals: U8, layout_of: U8, following: U8, memory: I64, scratch: I64,
    max_payload: int, max_readings: int, oldest: int, newest: int, receive: int, has_receive: bool,
    base: int, fields: I64, numbers: F64, rest: I32,
    series: I32, ts_ns: I64, value: F64, seq: I64, flags: U16, frame: I32,
    text_off: I32, text_len: I16,
) -> tuple[int, int]:  # fmt: skip
    """(rows written, frames left to the general path, whose numbers are written to `rest`).

    device: per frame, −1 where the topic is not known. kind, lines, bounds, blob: see `tables.Tables`.
    plans, literals, layout_of, following, memory, scratch: see `kernels_layouts`.
    receive: the time stamp of a reading that has none, if has_receive. base: flags of every row.
    fields, numbers: scratch. The row columns need room for one row per frame and one per 5 bytes of
    payload; `rest` for n.
    """
    row = left = 0
    for f in range(n):
        if f + 2 * AHEAD < n:
            prefetch(series_start, device[f + 2 * AHEAD])
            prefetch(layout_of, device[f + 2 * AHEAD])
            if device[f + AHEAD] >= 0:
                prefetch(kind, series_start[device[f + AHEAD]])
        d = int(peek(device, f))
        before = row
        good = False
        if d >= 0 and int(peek(payload_len, f)) <= max_payload:
            i = begin = int(peek(payload_off, f))
            end = i + int(peek(payload_len, f))
            first, last = int(peek(series_start, d)), int(peek(series_start, d + 1))
            fields[1] = receive
            fields[2] = 0
            count = follow(
                plans, literals, expected(layout_of, following, d), buffer, i, end, first, last,
                kind, bounds, fields, numbers,
            )  # fmt: skip
            followed = count >= 0
            array = False
            if not followed:
                i = skip_space(buffer, i, end)
                array = i < end and load8(buffer, i) == 91
                if array:
                    i = skip_space(buffer, i + 1, end)
            total = 0
            while last - first <= _MOST:
                if not followed:
                    fields[1] = receive
                    fields[2] = 0
                    i, count = _object(buffer, i, end, fields, numbers)
                    if count < 0 or not _find_series(
                        buffer, count, first, last, fields, numbers, kind, lines, bounds, blob
                    ):
                        break
                total += count
                if (
                    total > max_readings
                    or not oldest <= fields[1] <= newest
                    or not (has_receive or fields[0] & _TS)
                ):
                    break
                row_flags = base | RETAINED if int(peek(frame_flags, f)) & FRAME_RETAIN else base
                if fields[0] & _SEQ:
                    row_flags |= HAS_SEQ
                for k in range(count):
                    field = _AT + 4 * k
                    poke(series, row, int(peek(fields, field)))
                    poke(ts_ns, row, fields[1])
                    poke(value, row, float(peek(numbers, k)))
                    poke(seq, row, fields[2])
                    poke(flags, row, row_flags)
                    poke(frame, row, f)
                    poke(text_off, row, int(peek(fields, field + 2)))
                    poke(text_len, row, int(peek(fields, field + 3)))
                    row += 1
                if followed:
                    good = True
                    break
                i = skip_space(buffer, i, end)
                if not array:
                    good = i == end
                    break
                c = load8(buffer, i)
                if i >= end or c != 44:
                    good = i < end and c == 93 and skip_space(buffer, i + 1, end) == end
                    break
                i = skip_space(buffer, i + 1, end)
            if good and not followed and not array:
                miss(
                    plans, literals, layout_of, following, memory, d, buffer, begin, end,
                    first, last, count, fields, scratch, numbers, kind, bounds,
                )  # fmt: skip
        if not good:
            row = before
            rest[left] = f
            left += 1
    return row, left
