"""One pass over a batch: recognise duplicates, judge, learn.

What a reading is worth is in kernels_judge and kernels_lanes; here blocks of readings of different series are taken through it.
"""

import numpy as np

from greenlang_iot.detect.kernels_arrival import recognise
from greenlang_iot.detect.kernels_context import HOUR_NS, lines_of, places_of
from greenlang_iot.detect.kernels_judge import JUDGED, judge, meet
from greenlang_iot.detect.kernels_lanes import (
    BAND,
    BASE,
    CHANGE,
    DEVIATION,
    LANES,
    LEVEL,
    MARKS,
    UNIT,
    Z,
    weigh_lanes,
)  # fmt: skip
from greenlang_iot.detect.kernels_news import told_score, was_quiet
from greenlang_iot.detect.kernels_siblings import apart_score
from greenlang_iot.detect.state import HOT_LINES, NO_TS, ROW_LINES, Rows
from greenlang_iot.model.batches import F32, F64, I32, I64, U8, U16
from greenlang_iot.model.flags import (
    DETECTOR_NONE,
    DETECTOR_RIVER,
    NOT_LEARNT,
    SUSPECT,
    TOLD,
)
from greenlang_iot.model.jit import fused, kernel
from greenlang_iot.model.kernels_prefetch import prefetch, prefetch_far
from greenlang_iot.model.kernels_words import peek, poke


@kernel
def score_batch(
    n: int,
    series: I32,
    ts: I64,
    value: F64,
    bits: I64,
    seq: I64,
    flags: U16,
    connection: int,
    clock_ns: int,
    warmup: int,
    rows: Rows,
    halves: Rows,
    weeks: Rows,
    limits: Rows,
    kind: I32,
    siblings: Rows,
    score: F32,
    detector: U8,
    verdict: U8,
    expected: F32,
    band: F32,
    z: F32,
    change: F32,
    lanes: F64,
    kept: F32,
    places: I64,
    marks: U8,
) -> None:
    """Judge and learn `n` readings in row order; sets the duplicate bits in `flags`.

    bits: the values' bits (`value.view(int64)`). rows: state.ROW rows, by series; limits: limits.LIMIT rows, by
    kind; kind: by series; halves, weeks: `state.halves(rows)`, `state.weeks(rows)`; siblings: kernels_siblings.SIBLING rows, none where no limit row
    has several metrics. All else is a column of the batch; the seven from `score` on are written.
    lanes, kept, places, marks: `kernels_lanes.room()`; what is in it between calls means nothing.

    Readings are taken in blocks of up to LANES of different series, which know nothing of each other: what
    comes out does not depend on where a block ends.
    """
    # what follows from the hour alone is computed when it changes
    hour_ns, hours, hour, piece = NO_TS, 0, 0, 0
    day_line, week_line = HOT_LINES, HOT_LINES
    i = 0
    while i < n:
        used = 0
        while i < n and used < LANES:
            at = int(peek(series, i))
            if peek(marks, at & (MARKS - 1)):
                break  # its series may have a lane, which must learn first
            x = float(peek(value, i))
            outcome = 0
            if x - x == 0.0:  # neither NaN nor infinite: decode rejects these
                row, time = rows[np.uint64(at)], int(peek(ts, i))
                flag = recognise(row, i, ts, bits, seq, flags, connection, clock_ns)
                if flag & NOT_LEARNT == 0:
                    if time < hour_ns or time >= hour_ns + HOUR_NS:
                        hours = time // HOUR_NS
                        hour_ns = hours * HOUR_NS
                        hour, piece = places_of(hours)
                        day_line, week_line = lines_of(hours)
                    half = halves[np.uint64(ROW_LINES * at + day_line)]
                    week = weeks[np.uint64(ROW_LINES * at + week_line)]
                    limit = limits[np.uint64(peek(kind, at))]
                    outcome = meet(
                        row,
                        half,
                        week,
                        limit,
                        x,
                        time,
                        hours,
                        hour,
                        piece,
                        warmup,
                        lanes,
                        kept,
                        used,
                    )
            if outcome == JUDGED:
                poke(marks, at & (MARKS - 1), 1)
                poke(places, used, i)
                used += 1
            else:
                poke(score, i, 0.0)
                poke(detector, i, DETECTOR_NONE)
                poke(verdict, i, outcome)
                poke(expected, i, np.nan)
                poke(band, i, np.nan)
                poke(z, i, 0.0)
                poke(change, i, 0.0)
            i += 1
        weigh_lanes(used, lanes, kept)
        for k in range(used):
            j = int(peek(places, k))
            at = int(peek(series, j))
            time = int(peek(ts, j))
            if i + k < n:
                ask_for(int(peek(series, i + k)), day_line, week_line, rows, kind, siblings)
            poke(marks, at & (MARKS - 1), 0)
            row, limit = rows[np.uint64(at)], limits[np.uint64(peek(kind, at))]
            s, d, v = judge(row, limit, time, lanes, kept, k)
            signed = peek(lanes, Z + k) if peek(lanes, DEVIATION + k) > 0.0 else -peek(lanes, Z + k)
            if limit["metrics"] > 1:
                first = at - limit["place"]
                apart = apart_score(siblings, first, limit["metrics"], at, time, signed)
                if v & SUSPECT == 0 and apart >= limit["threshold"]:
                    told = was_quiet(row)
                    s = told_score(apart, 1.0 * limit["threshold"]) if told else apart
                    d = DETECTOR_RIVER
                    v |= SUSPECT | TOLD if told else SUSPECT
            poke(score, j, s)
            poke(detector, j, d)
            poke(verdict, j, v)
            poke(
                expected, j, peek(lanes, BASE + k) + peek(lanes, LEVEL + k) * peek(lanes, UNIT + k)
            )
            poke(band, j, peek(lanes, BAND + k) * peek(lanes, UNIT + k))
            poke(z, j, signed)
            poke(change, j, peek(lanes, CHANGE + k))
        for k in range(i + used, min(i + LANES, n)):
            ask_for(int(peek(series, k)), day_line, week_line, rows, kind, siblings)


@fused
def ask_for(at: int, day_line: int, week_line: int, rows: Rows, kind: I32, siblings: Rows) -> None:
    """Have the cache lines brought that a reading of this series will touch, if it is of the hour of those before."""
    for line in range(HOT_LINES):
        prefetch_far(rows, at, line)
    prefetch_far(rows, at, day_line)
    prefetch_far(rows, at, week_line)
    prefetch(kind, at)
    if len(siblings):
        prefetch_far(siblings, at)
