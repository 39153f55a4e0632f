"""Counting the quality of a batch, row by row, into one cache line per device."""

import math

from greenlang_iot.model import flags as bits
from greenlang_iot.model.batches import F32, F64, I32, I64, U8, U16
from greenlang_iot.model.jit import fused, kernel
from greenlang_iot.model.kernels_prefetch import AHEAD, prefetch
from greenlang_iot.model.kernels_words import peek, poke
from greenlang_iot.quality.record import (
    NEWEST,
    NO_LAG,
    NOW_ACCURATE,
    NOW_ARRIVED,
    NOW_INCONSISTENT,
    NOW_JUDGED,
    NOW_LEAST_LAG,
    NOW_ON_TIME,
    RING,
    ROW,
)

_AGAIN = bits.DUPLICATE | bits.REPLAYED | bits.TS_COLLISION
_ODD = _AGAIN | bits.LATE
_NOT_JUDGED = bits.NOT_LEARNT | bits.CLOCK_SUSPECT


@fused
def _count(rows: I32, at: int) -> None:
    poke(rows, at, int(peek(rows, at)) + 1)


@kernel
def count_batch(
    n: int,
    series: I32,
    ts_ns: I64,
    value: F64,
    flags: U16,
    verdict: U8,
    expected: F32,
    band: F32,
    series_device: I32,
    received_ns: int,
    limit_ns: int,
    slot_ns: int,
    slot: int,
    first_slot: int,
    rows: I32,
    times: I64,
    role: I32,
    tolerance: F64,
    reference_value: F64,
    reference_ts: I64,
    reference_age: I64,
) -> None:
    """Add `n` readings, received at `received_ns` in slot number `slot`, to `rows`.

    rows: int32[devices × ROW], which begin on a cache line; times: the same memory as int64.
    A reading counts now, but RECEIVED counts where it was measured: slots from `first_slot` to `slot` + 1.
    limit_ns: largest lag that is on time.

    role: per series; 0 none, −(k + 1) it is reference k, k + 1 it is compared with reference k and
    accurate within `tolerance` (per series). Empty where the registry names no reference. The newest
    value and event time of each reference, and how far apart (ns) a reading may be measured.
    """
    begin = slot * slot_ns
    for i in range(n):
        if i + 4 * AHEAD < n:
            prefetch(series_device, int(peek(series, i + 4 * AHEAD)))
            ahead = int(peek(series_device, int(peek(series, i + 2 * AHEAD))))
            prefetch(rows, ahead * ROW)
        flag = int(peek(flags, i))
        if flag & bits.RETAINED:
            continue
        s = int(peek(series, i))
        device = int(peek(series_device, s))
        at, newest = device * ROW, device * (ROW // 2) + NEWEST
        ts, last = int(peek(ts_ns, i)), int(peek(times, newest))
        lag = received_ns - ts
        _count(rows, at + NOW_ARRIVED)
        if lag <= limit_ns:
            _count(rows, at + NOW_ON_TIME)
        if flag & _ODD or ts < last:
            _count(rows, at + NOW_INCONSISTENT)
        poke(times, newest, max(last, ts))
        if not flag & _AGAIN:
            measured = slot if begin <= ts < begin + slot_ns else ts // slot_ns
            if first_slot <= measured <= slot + 1:
                _count(rows, at + measured % RING)
        if not flag & bits.CLOCK_SUSPECT:
            lag_ms = min(max(lag // 1_000_000, -NO_LAG), NO_LAG - 1)
            least = int(peek(rows, at + NOW_LEAST_LAG))
            poke(rows, at + NOW_LEAST_LAG, min(least, lag_ms))
        if flag & _NOT_JUDGED:
            continue
        part = int(peek(role, s)) if len(role) else 0
        if part > 0:
            if abs(ts - reference_ts[part - 1]) <= reference_age[part - 1]:
                _count(rows, at + NOW_JUDGED)
                if abs(value[i] - reference_value[part - 1]) <= tolerance[s]:
                    _count(rows, at + NOW_ACCURATE)
            continue
        if part < 0 and ts >= reference_ts[-part - 1]:
            reference_ts[-part - 1], reference_value[-part - 1] = ts, value[i]
        width = float(peek(band, i))
        if not (int(peek(verdict, i)) & bits.LEARNING) and math.isfinite(width):
            _count(rows, at + NOW_JUDGED)
            if abs(float(peek(value, i)) - float(peek(expected, i))) <= width:
                _count(rows, at + NOW_ACCURATE)
