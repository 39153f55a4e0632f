"""Columns → InfluxDB line protocol, row by row into one buffer.

What is written for every line (line heads, field names) lies in the rows of `texts.SeriesTexts` and is
copied sixteen bytes a step. Writers may therefore spill up to 15 bytes past what they return.
"""

import numpy as np

from greenlang_iot.encode.kernels_copy import SPILL, copy_bytes
from greenlang_iot.encode.kernels_digits import put_integer
from greenlang_iot.encode.kernels_texts import STEP
from greenlang_iot.model.batches import F32, I16, I32, I64, U8, U16, U32
from greenlang_iot.model.flags import DUPLICATE, HAS_SEQ, SUSPECT, TEXT_IN_ARENA
from greenlang_iot.model.jit import fused, kernel
from greenlang_iot.model.kernels_prefetch import AHEAD, prefetch
from greenlang_iot.model.kernels_words import peek, poke

COMMA, SPACE, NEWLINE, ZERO, DOT = 44, 32, 10, 48, 46
ROOM = 64
"""Bytes a line may need beside its head, field names and values: commas, score, time stamp, spill."""
assert ROOM >= 1 + 8 + 1 + 20 + 1 + SPILL


@fused
def _put_score(score: float, out: U8, at: int) -> int:
    """`1 − 10**−score` with six decimals."""
    millionths = int((1.0 - 10.0 ** -np.float64(score)) * 1e6 + 0.5)
    out[at] = ZERO + millionths // 1_000_000
    out[at + 1] = DOT
    for i in range(6):
        out[at + 7 - i] = ZERO + millionths % 10
        millionths //= 10
    return at + 8


@fused
def _stamp(row: int, ts_ns: I64, seq: I64, flags: U16, tiebreak: int) -> int:
    if tiebreak and flags[row] & HAS_SEQ:
        return int(ts_ns[row] + seq[row] % 1000)
    return int(peek(ts_ns, row))


@fused
def _repeats(start: int, row: int, series: I32, flags: U16) -> bool:
    """Is the series of `row` in the line that began at `start` already?"""
    for earlier in range(start, row):
        if series[earlier] == series[row] and not flags[earlier] & DUPLICATE:
            return True
    return False


@fused
def _belongs(
    start: int, row: int, highest: int, device: int, stamp: int, series: I32, ts_ns: I64,
    seq: I64, flags: U16, frame: I32, place: U32, tiebreak: int,
) -> bool:  # fmt: skip
    """Does `row` go into the line that began at `start`, whose largest series is `highest`?"""
    return (
        int(peek(frame, row)) == int(peek(frame, start))
        and int(peek(place, 2 * int(peek(series, row)))) == device
        and _stamp(row, ts_ns, seq, flags, tiebreak) == stamp
        and (int(peek(series, row)) > highest or not _repeats(start, row, series, flags))
    )


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


@kernel
def append_lines(
    row: int,
    at: int,
    n: int,
    series: I32,
    ts_ns: I64,
    seq: I64,
    flags: U16,
    frame: I32,
    text_off: I32,
    text_len: I16,
    buffer: U8,
    arena: U8,
    score: F32,
    verdict: U8,
    place: U32,
    blob: U8,
    heads: U32,
    tiebreak: int,
    out: U8,
) -> tuple[int, int, int]:
    """Write rows `row`…n−1 as lines to `out` from `at` on; DUPLICATE rows are skipped.

    place, blob, heads: see `texts.SeriesTexts`. A device's text is `telemetry,device=…,site=… `
    (escaped, with the space), a metric's are `name=` and `,name_score=`.
    Consecutive rows of one frame, device and time stamp are one line; where a metric comes again in
    them, a new line begins.
    Returns (next row, next `at`, readings written); next row < n: `out` is full, and the lines up to
    `at` are complete.
    """
    room = len(out)
    readings = 0
    while row < n:
        _ask_ahead(row, n, series, place, blob, text_off, buffer)
        if int(peek(flags, row)) & DUPLICATE:
            row += 1
            continue
        start = row
        line = at
        device = int(peek(place, 2 * int(peek(series, row))))
        stamp = _stamp(row, ts_ns, seq, flags, tiebreak)
        size = int(peek(heads, 4 * device + 1))
        if at + size + ROOM > room:
            return start, line, readings
        at = copy_bytes(blob, STEP * device + STEP, size, out, at)
        highest = -1
        fields = 0
        while row < n:
            flag = int(peek(flags, row))
            if flag & DUPLICATE:
                row += 1
                continue
            if fields and not _belongs(
                start, row, highest, device, stamp, series, ts_ns, seq, flags, frame, place,
                tiebreak,
            ):  # fmt: skip
                break
            s = int(peek(series, row))
            highest = max(highest, s)
            metric = int(peek(place, 2 * s + 1))
            name = int(peek(heads, 4 * metric))
            score_name = int(peek(heads, 4 * metric + 1))
            text = int(peek(text_len, row))
            if at + name + score_name + text + ROOM > room:
                return start, line, readings
            if fields:
                poke(out, at, COMMA)
                at += 1
            metric = STEP * metric + STEP
            at = copy_bytes(blob, metric, name, out, at)
            if flag & TEXT_IN_ARENA:
                at = copy_bytes(arena, int(peek(text_off, row)), text, out, at)
            else:
                at = copy_bytes(buffer, int(peek(text_off, row)), text, out, at)
            if int(peek(verdict, row)) & SUSPECT:
                at = copy_bytes(blob, metric + name, score_name, out, at)
                at = _put_score(score[row], out, at)
            fields += 1
            row += 1
        poke(out, at, SPACE)
        at = put_integer(stamp, out, at + 1)
        poke(out, at, NEWLINE)
        at += 1
        prefetch(out, at + 448)  # where later lines go
        prefetch(out, at + 512)
        readings += fields
    return row, at, readings
