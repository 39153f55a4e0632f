"""Counting the quality of a batch, row by row, into one record per device and slot of time."""

import math

import numpy as np

from greenlang_iot.model import flags as bits
from greenlang_iot.model.batches import F32, F64, I32, I64, U8, U16
from greenlang_iot.model.jit import kernel
from greenlang_iot.model.kernels_prefetch import AHEAD, prefetch
from greenlang_iot.quality.record import (
    ACCURATE,
    ARRIVED,
    FIELDS,
    INCONSISTENT,
    JUDGED,
    LEAST_LAG,
    NO_LAG,
    ON_TIME,
    RECEIVED,
    RING,
)

_AGAIN = bits.DUPLICATE | bits.REPLAYED | bits.TS_COLLISION
_ODD = _AGAIN | bits.LATE
_NOT_JUDGED = bits.NOT_LEARNT | bits.CLOCK_SUSPECT


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
    records: I32,
    newest: I64,
    role: I32,
    tolerance: F64,
    reference_value: F64,
    reference_ts: I64,
    reference_age: I64,
) -> None:
    """Add `n` readings, received at `received_ns` in slot number `slot`, to `records`.

    records: int32[devices × RING × FIELDS]; newest: event time per device of its newest reading.
    A reading counts where it arrived, but RECEIVED counts where it was measured: slots from
    `first_slot` to `slot` + 1. limit_ns: largest lag that is on time.

    role: per series; 0 none, −(k + 1) it is reference k, k + 1 it is compared with reference k and
    accurate within `tolerance` (per series). Empty where the registry names no reference. The newest
    value and event time of each reference, and how far apart (ns) a reading may be measured.
    """
    here = (slot % RING) * FIELDS
    begin = slot * slot_ns
    for i in range(n):
        if i + 4 * AHEAD < n:
            prefetch(series_device, series[i + 4 * AHEAD])
            ahead = int(series_device[series[i + 2 * AHEAD]])
            prefetch(records, ahead * RING * FIELDS + here)
            prefetch(newest, ahead)
        flag = flags[i]
        if flag & bits.RETAINED:
            continue
        device = np.int64(series_device[series[i]])
        base = device * RING * FIELDS
        at = base + here
        ts, lag = ts_ns[i], received_ns - ts_ns[i]
        records[at + ARRIVED] += 1
        if lag <= limit_ns:
            records[at + ON_TIME] += 1
        if flag & _ODD or ts < newest[device]:
            records[at + INCONSISTENT] += 1
        newest[device] = max(newest[device], ts)
        if not flag & _AGAIN:
            measured = slot if begin <= ts < begin + slot_ns else ts // slot_ns
            if first_slot <= measured <= slot + 1:
                records[base + (measured % RING) * FIELDS + RECEIVED] += 1
        if not flag & bits.CLOCK_SUSPECT:
            lag_ms = min(max(lag // 1_000_000, -NO_LAG), NO_LAG - 1)
            records[at + LEAST_LAG] = min(records[at + LEAST_LAG], np.int32(lag_ms))
        if flag & _NOT_JUDGED:
            continue
        part = role[series[i]] if len(role) else np.int32(0)
        if part > 0:
            if abs(ts - reference_ts[part - 1]) <= reference_age[part - 1]:
                records[at + JUDGED] += 1
                if abs(value[i] - reference_value[part - 1]) <= tolerance[series[i]]:
                    records[at + ACCURATE] += 1
            continue
        if part < 0 and ts >= reference_ts[-part - 1]:
            reference_ts[-part - 1], reference_value[-part - 1] = ts, value[i]
        if not (verdict[i] & bits.LEARNING) and math.isfinite(band[i]):
            records[at + JUDGED] += 1
            if abs(value[i] - expected[i]) <= band[i]:
                records[at + ACCURATE] += 1
