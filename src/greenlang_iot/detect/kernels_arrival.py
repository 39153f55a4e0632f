"""What came: is a reading known already, and what came last of its series.

Whatever is judged, these are asked first; where nothing is judged, they are all (`recognise_batch`).
"""

from typing import Any

import numpy as np

from greenlang_iot.detect.kernels_tail import EXCESS, START
from greenlang_iot.detect.state import (
    GAUSS_TAIL,
    HOT_LINES,
    NO_TS,
    NOISE_CUSUM,
    RECENT,
    Rows,
)
from greenlang_iot.model.batches import F64, I32, I64, U16
from greenlang_iot.model.flags import (
    DUPLICATE,
    HAS_SEQ,
    LATE,
    NOT_LEARNT,
    REPLAYED,
    RETAINED,
    TS_COLLISION,
)
from greenlang_iot.model.jit import fused, kernel, leaf
from greenlang_iot.model.kernels_prefetch import prefetch
from greenlang_iot.model.kernels_words import peek, poke

Row = Any
"""One record of Rows: a view, so what is assigned to its fields stays."""

RUN_FLOOR = 10.0  # shorter runs of equal values never count as long
RUN_DECAY = 0.9995  # per finished run
MAX_COUNT = 2**16 - 1
AHEAD = 6  # rows that are asked for before they are needed, where nothing is judged
NO_SEQ = 0xFFFFFFFF


@leaf
def fold_seq(seq: int, flags: int) -> int:
    """A seq as 32 bits: exact below 2**32 − 1, spread out beyond and below 0."""
    if flags & HAS_SEQ == 0:
        return NO_SEQ
    # the product stays below 2**61: nothing wraps around
    return ((seq & 0xFFFFFFFF) + ((seq >> 32) & 0xFFFFFFFF) * 0x1E3779B1) & 0xFFFFFFFF


@leaf
def begin(row: Row) -> None:
    """The first reading of a series: its row is all zeros, and from here on as `state.ROW` says."""
    for k in range(RECENT):
        row["recent_ts"][k] = NO_TS
    row["floor_ts"] = NO_TS
    row["last_ts"] = NO_TS
    row["spike_tail"] = GAUSS_TAIL
    row["shift_excess"] = NOISE_CUSUM
    row["usual_start"] = row["stray_start"] = START
    row["usual_excess"] = row["stray_excess"] = EXCESS


@fused
def identify(row: Row, ts: int, bits: int, seq: int, connection: int) -> int:
    """Look the identity (ts, seq) up and remember it; returns the flag that it earns, or 0."""
    recent = row["recent_ts"]
    oldest, least, known = 0, recent[0], recent[0] == ts
    for k in range(1, RECENT):
        one = recent[k]
        known |= one == ts
        oldest = k if one < least else oldest
        least = min(one, least)
    if known:
        for k in range(RECENT):
            if recent[k] == ts and row["recent_seq"][k] == seq:
                return met_again(row, k, bits, connection)
    if ts <= row["floor_ts"]:
        return LATE
    if least > ts:
        # older than all that is remembered, newer than all that was forgotten: forget it at once
        row["floor_ts"] = ts
        return 0
    row["floor_ts"] = max(least, row["floor_ts"])
    row["recent_ts"][oldest] = ts
    row["recent_value"][oldest] = bits
    row["recent_seq"][oldest] = seq
    row["recent_connection"][oldest] = connection
    return 0


@leaf
def met_again(row: Row, k: int, bits: int, connection: int) -> int:
    """The flag of a reading whose identity is the `k`th that is remembered."""
    same = row["recent_value"][k] == bits
    here = row["recent_connection"][k] == connection
    row["recent_value"][k] = bits
    row["recent_connection"][k] = connection
    if not same:
        return TS_COLLISION
    return DUPLICATE if here else REPLAYED


@fused
def recognise(
    row: Row, i: int, ts: I64, bits: I64, seq: I64, flags: U16, connection: int, clock_ns: int
) -> int:
    """The flags of reading `i`, with what its identity earns; its row remembers it, and when the series was heard."""
    if row["spike_tail"] == 0.0:
        begin(row)
    flag = int(peek(flags, i))
    number = fold_seq(int(peek(seq, i)), flag)
    flag |= identify(row, int(peek(ts, i)), int(peek(bits, i)), number, connection)
    poke(flags, i, flag)
    if flag & RETAINED == 0:
        row["heard_ns"] = clock_ns
    return flag


@leaf
def follow_run(row: Row, x: float) -> None:
    """Count equal values in a row; a finished run tells what is usual."""
    if x == row["last_value"]:
        if row["run"] < MAX_COUNT:
            row["run"] += 1
        return
    run = float(row["run"])
    if run > 0.0:
        usual = float(row["usual_run"])
        # no run counts for more than three usual ones: a stuck sensor is not a habit
        row["usual_run"] = max(usual * RUN_DECAY, min(run, 3.0 * max(usual, RUN_FLOOR)))
    row["run"] = 1


@leaf
def arrive(row: Row, limit: Row, x: float, ts: int) -> float:
    """Note what came last. Returns the seconds since the reading before; 0 = first; −1 = not newer."""
    last_ts = row["last_ts"]
    if ts <= last_ts:
        return -1.0
    seconds = 0.0
    if last_ts != NO_TS:
        seconds = (ts - last_ts) * 1e-9
        if 0 < limit["gap_ns"] < ts - last_ts:
            row["n"] = 0
            row["outside"] = 0
            row["shift_up"] = 0.0
            row["shift_down"] = 0.0
    follow_run(row, x)
    row["last_ts"] = ts
    row["last_value"] = x
    return seconds


@kernel
def recognise_batch(
    n: int,
    series: I32,
    ts: I64,
    value: F64,
    bits: I64,
    seq: I64,
    flags: U16,
    connection: int,
    clock_ns: int,
    rows: Rows,
    limits: Rows,
    kind: I32,
) -> None:
    """Set the duplicate bits in `flags` and note what came last; nothing is judged or learnt."""
    for i in range(n):
        if i + AHEAD < n:
            ahead = int(peek(series, i + AHEAD))
            for line in range(HOT_LINES - 1):
                prefetch(rows, ahead, line)
            prefetch(kind, ahead)
        x = float(peek(value, i))
        if x - x != 0.0:
            continue
        at = int(peek(series, i))
        row = rows[np.uint64(at)]
        flag = recognise(row, i, ts, bits, seq, flags, connection, clock_ns)
        if flag & NOT_LEARNT == 0:
            arrive(row, limits[np.uint64(peek(kind, at))], x, int(peek(ts, i)))
