"""One pass over a batch: recognise duplicates, judge, learn.

Every raw score becomes −log10 of the share of normal readings at least as extreme:

spike   z = |value − level| / spread. Up to z = 2 the Gaussian tail; beyond, a power of z whose
        exponent is what this series showed lately (Hill's estimate; never lighter than Gaussian).
shift   two one-sided CUSUMs of z, clipped at 4 so that one reading alone proves nothing;
        exponential tail with the mean of this series' own positive CUSUMs.
stuck   length of a run of equal values against the longest that is usual here.
context the series strays from its usual day (kernels_context).
rate, range  a violated limit of the registry is certain.

Spike and shift together, and context, stand against the tail of their own raw scores (kernels_tail):
what this series does all the time is no anomaly. A spike or shift to what the hour lets expect counts less, and so do those of
a new series. Where both are unusual, the higher score gains a share of the lower.

An anomaly is news once: after a reading over the threshold the next ones are TOLD, with half the
threshold as their score, until the series stayed below the threshold for a while. What comes at the same time
of the day as on other days before, and no stronger, is no news either (kernels_habit). A violated limit is always news.

Level and spread learn from what is inside (z ≤ 4), clipped at 3; what is outside is not learnt
until ADOPT_AFTER readings in a row were: then the change has lasted and becomes the new normal.
"""

from typing import Any

import numpy as np

from greenlang_iot.detect.kernels_arrival import MAX_COUNT, RUN_FLOOR, arrive, recognise
from greenlang_iot.detect.kernels_context import DOUBT, HOUR_NS, half_of, residual, settled, week_of
from greenlang_iot.detect.kernels_habit import is_habit
from greenlang_iot.detect.kernels_lanes import (
    BAND,
    BASE,
    CHANGE,
    CUSUM,
    DEVIATION,
    DOWN,
    ERROR,
    FLOOR,
    HUGE,
    LANES,
    LAST,
    LEAN,
    LEAN_MEAN,
    LEAN_SD,
    LEVEL,
    MARKS,
    OUTSIDE,
    RESIDUAL,
    SECONDS,
    SEEN,
    SETTLED,
    SHIFT,
    SHIFTS,
    SIGMA,
    SIZE,
    SIZE_MEAN,
    SIZE_SD,
    SPIKE,
    SPIKES,
    SPREAD,
    SQUARE,
    SQUARE_MEAN,
    SQUARE_SD,
    STRANGE,
    STRAY,
    STRAY_EXCESS,
    STRAY_START,
    TAIL,
    TAIL_FROM,
    THRESHOLD,
    UNIT,
    UP,
    USUAL_EXCESS,
    USUAL_SCORE,
    USUAL_START,
    X,
    Y,
    Z,
    weigh_lanes,
    weight,
)  # fmt: skip
from greenlang_iot.detect.kernels_siblings import apart_score
from greenlang_iot.detect.kernels_tail import beyond, pace
from greenlang_iot.detect.limits import COUNTER, RESOLUTION
from greenlang_iot.detect.state import HOT_LINES, Rows
from greenlang_iot.model.batches import F32, F64, I32, I64, U8, U16
from greenlang_iot.model.flags import (
    DETECTOR_CONTEXT,
    DETECTOR_NONE,
    DETECTOR_RANGE,
    DETECTOR_RATE,
    DETECTOR_RIVER,
    DETECTOR_SHIFT,
    DETECTOR_SPIKE,
    DETECTOR_STUCK,
    LEARNING,
    NOT_LEARNT,
    SUSPECT,
    TOLD,
)
from greenlang_iot.model.jit import fused, kernel, leaf
from greenlang_iot.model.kernels_log import log
from greenlang_iot.model.kernels_prefetch import prefetch
from greenlang_iot.model.kernels_words import peek, poke

Row = Any
"""One record of Rows: a view, so what is assigned to its fields stays."""

ADOPT_AFTER = 60
"""Readings outside in a row after which a lasting change is the new normal."""
MAX_SCORE = 30.0
CERTAIN = 12.0
"""Score of a violated limit."""

LEVEL_RATE = 0.15
SPREAD_RATE = 0.02
STEADY_ROWS = 50
"""Readings after which level and spread move at these rates."""
DRIFT_RATE = 0.02
WIDEST = 1e37
"""Deviations that float32 holds with room to spare."""
OTHER_RATE = 0.1
SPIKE_RATE = 1 / 64
CLIP = 3.0
QUIET_SHARE = 0.06  # of the readings seen
QUIET_LEAST = 25.0
QUIET_MOST = 140.0
TOLD_SHARE = 0.5
AGREED = 0.5
"""Share of the lower score that the higher one gains, of what it has above AGREED_FROM."""
AGREED_FROM = 2.0
AGREED_WEIGHT = 0.2
"""Exponent of a tail beyond which it gains less: one far reading of a heavy tail lifts both."""
TAIL_KNOWN = 50
"""Readings before which no tail is learnt."""
RUN_SCORE = 1.5  # score of a run as long as usual
JUDGED = 128
"""What `meet` says of a reading that has a lane; no verdict has this bit."""


@leaf
def learn(row: Row, y: float, deviation: float, sigma: float) -> None:
    """Move level and spread towards a reading that is inside (or part of the warm-up)."""
    n = int(row["n"])
    step = deviation
    if n >= 8 and sigma > 0.0:
        step = min(max(deviation, -CLIP * sigma), CLIP * sigma)
    if n == 0:
        row["level"] = y
        row["spread"] = 0.0
        row["drift"] = 0.0
    else:
        drift = float(row["drift"])
        spread = float(row["spread"])
        level_rate, spread_rate = LEVEL_RATE, SPREAD_RATE
        if n < STEADY_ROWS:
            level_rate = max(1.0 / (n + 1.0), LEVEL_RATE)
            spread_rate = max(1.0 / n, SPREAD_RATE)
        row["level"] += (step + drift) * level_rate
        row["drift"] = min(max(drift + DRIFT_RATE * step, -WIDEST), WIDEST)
        row["spread"] = min(spread + (abs(step) - spread) * spread_rate, WIDEST)
    if n < MAX_COUNT:
        row["n"] = n + 1


@leaf
def stay_outside(row: Row, deviation: float) -> None:
    """Follow the readings outside; when they last, theirs becomes the baseline.

    deviation: from the expected value, which stays where it is meanwhile.
    """
    x = min(max(deviation, -WIDEST), WIDEST)
    if row["outside"] == 0:
        row["other_level"] = x
        row["other_spread"] = row["spread"]
    else:
        other, spread = float(row["other_level"]), float(row["other_spread"])
        row["other_level"] = other + OTHER_RATE * (x - other)
        row["other_spread"] = min(spread + OTHER_RATE * (abs(x - other) - spread), WIDEST)
    row["outside"] += 1
    if row["outside"] >= ADOPT_AFTER:
        row["level"] = row["level"] + row["drift"] + row["other_level"]
        row["spread"] = row["other_spread"]
        row["outside"] = 0
        row["drift"] = 0.0
        row["shift_up"] = 0.0
        row["shift_down"] = 0.0


@leaf
def violation(limit: Row, x: float, last: float, level: float, seconds: float, band: float) -> int:
    """The detector of a violated limit of the registry, or DETECTOR_NONE."""
    if x < limit["warn_low"] or x > limit["warn_high"]:
        return DETECTOR_RANGE
    # the step holds for the thing measured; noise comes on top
    if seconds <= 0.0 or not min(abs(x - last), HUGE) > limit["step"] * seconds + band:
        return DETECTOR_NONE
    if limit["detectors"] & COUNTER or abs(x - level) >= abs(last - level):
        return DETECTOR_RATE
    return DETECTOR_NONE  # a value that comes back is the end of a violation, not a second one


@leaf
def is_told(row: Row, suspect: bool, detector: int, score: float, threshold: float) -> bool:
    """Is this anomaly no news? Every suspect reading prolongs the quiet time of its series."""
    if detector == DETECTOR_STUCK:
        # news in the moment in which the run becomes too long
        return suspect and score * (row["run"] - 2.0) >= threshold * (row["run"] - 1.0)
    if suspect:
        return was_quiet(row)
    if row["quiet"] > 0:
        row["quiet"] -= 1
    return False


@leaf
def was_quiet(row: Row) -> bool:
    """Begin or prolong the quiet time of a series; was it one already?"""
    quiet = int(row["quiet"])
    row["quiet"] = int(min(max(QUIET_SHARE * row["seen"], QUIET_LEAST), QUIET_MOST))
    return quiet > 0


@fused
def meet(
    row: Row,
    half: Row,
    week: Row,
    limit: Row,
    x: float,
    ts: int,
    hours: int,
    warmup: int,
    s: F64,
    t: F32,
    k: int,
) -> int:
    """Note what came, and lay out lane `k` of what is judged of it (kernels_lanes).

    half, week: the lines of `state.halves` and `state.weeks` that hold the hour of `ts`, which is `hours` since 1970.
    Returns JUDGED, or the verdict of what is not judged: LEARNING or 0.
    """
    last = float(row["last_value"])
    seconds = arrive(row, limit, x, ts)
    enabled = limit["detectors"]
    base, unit, y = 0.0, 1.0, x
    if enabled & COUNTER:
        if seconds <= 0.0 or x < last:  # first, late, or the counter restarted
            return 0
        base, unit, y = last, seconds, min((x - last) / seconds, HUGE)

    level = float(row["level"]) + float(row["drift"])
    deviation = min(max(y - level, -HUGE), HUGE)
    floor = float(limit["floor"])
    if floor == 0.0:
        floor = RESOLUTION * abs(level)
    sigma = max(SIGMA * float(row["spread"]), floor)
    if row["n"] < warmup:
        learn(row, y, deviation, sigma)
        return LEARNING

    seen = float(row["seen"])
    poke(s, X + k, x)
    poke(s, LAST + k, last)
    poke(s, SECONDS + k, seconds)
    poke(s, BASE + k, base)
    poke(s, UNIT + k, unit)
    poke(s, Y + k, y)
    poke(s, LEVEL + k, level)
    poke(s, DEVIATION + k, deviation)
    poke(s, SPREAD + k, sigma)
    poke(s, FLOOR + k, floor)
    poke(s, SEEN + k, seen)
    poke(s, SPIKES + k, 1.0 if enabled & (1 << DETECTOR_SPIKE) else 0.0)
    poke(s, SHIFTS + k, 1.0 if enabled & (1 << DETECTOR_SHIFT) else 0.0)
    poke(t, THRESHOLD + k, limit["threshold"])
    poke(t, TAIL + k, row["spike_tail"])
    poke(t, UP + k, row["shift_up"])
    poke(t, DOWN + k, row["shift_down"])
    poke(t, CUSUM + k, row["shift_excess"])
    poke(t, USUAL_START + k, row["usual_start"])
    poke(t, USUAL_EXCESS + k, row["usual_excess"])
    poke(t, STRAY_START + k, row["stray_start"])
    poke(t, STRAY_EXCESS + k, row["stray_excess"])
    if enabled & (1 << DETECTOR_CONTEXT):
        strayed, error, record = residual(row, half, week, y, hours)
        poke(s, SETTLED + k, 1.0 + record if settled(row, hours) else 0.0)
        poke(s, RESIDUAL + k, strayed)
        poke(s, ERROR + k, error)
        if row["seen"] < MAX_COUNT:
            row["seen"] += 1
        poke(t, SIZE + k, row["size"])
        poke(t, SQUARE + k, row["square"])
        poke(t, LEAN + k, row["lean"])
        poke(t, SIZE_MEAN + k, row["size_mean"])
        poke(t, SIZE_SD + k, row["size_sd"])
        poke(t, SQUARE_MEAN + k, row["square_mean"])
        poke(t, SQUARE_SD + k, row["square_sd"])
        poke(t, LEAN_MEAN + k, row["lean_mean"])
        poke(t, LEAN_SD + k, row["lean_sd"])
    else:
        poke(s, SETTLED + k, 0.0)
        poke(s, RESIDUAL + k, 0.0)
        poke(s, ERROR + k, 0.0)
    return JUDGED


@fused
def judge(row: Row, limit: Row, ts: int, s: F64, t: F32, k: int) -> tuple[float, int, int]:
    """Judge the reading of lane `k`, which is weighed, against its series, then learn from it.

    Returns score, detector, verdict.
    """
    enabled = limit["detectors"]
    row["shift_up"], row["shift_down"], row["shift_excess"] = (
        peek(t, UP + k),
        peek(t, DOWN + k),
        peek(t, CUSUM + k),
    )
    if enabled & (1 << DETECTOR_CONTEXT):
        row["size"], row["square"], row["lean"] = (
            peek(t, SIZE + k),
            peek(t, SQUARE + k),
            peek(t, LEAN + k),
        )
        row["size_mean"], row["size_sd"] = peek(t, SIZE_MEAN + k), peek(t, SIZE_SD + k)
        row["square_mean"], row["square_sd"] = peek(t, SQUARE_MEAN + k), peek(t, SQUARE_SD + k)
        row["lean_mean"], row["lean_sd"] = peek(t, LEAN_MEAN + k), peek(t, LEAN_SD + k)
    threshold = float(peek(t, THRESHOLD + k))
    z, seen = peek(s, Z + k), peek(s, SEEN + k)
    best, strange = peek(s, USUAL_SCORE + k), peek(s, STRANGE + k)
    detector = DETECTOR_SHIFT if peek(s, SHIFT + k) > peek(s, SPIKE + k) else DETECTOR_SPIKE
    if not enabled & (1 << DETECTOR_SPIKE) and peek(s, SHIFT + k) <= 0.0:
        detector = DETECTOR_NONE
    agreed = max(min(best, strange) - AGREED_FROM, 0.0)
    if agreed > 0.0:
        agreed *= AGREED * min(AGREED_WEIGHT / weight(float(peek(t, TAIL + k))), 1.0)
    detector = DETECTOR_CONTEXT if strange > best else detector
    best = max(best, strange) + agreed
    if row["run"] > 1 and enabled & (1 << DETECTOR_STUCK) and peek(s, SECONDS + k) >= 0.0:
        usual_run = float(row["usual_run"])
        if usual_run > 0.0:
            stuck = RUN_SCORE * (row["run"] - 1.0) / max(usual_run, RUN_FLOOR)
            if stuck > best:
                best, detector = stuck, DETECTOR_STUCK
    suspect = best >= threshold
    calm = row["quiet"] == 0  # nothing was told lately
    told = is_told(row, suspect, detector, best, threshold)
    violated = violation(
        limit,
        peek(s, X + k),
        peek(s, LAST + k),
        peek(s, LEVEL + k),
        peek(s, SECONDS + k),
        peek(s, BAND + k),
    )
    if suspect and not told and violated == DETECTOR_NONE and detector != DETECTOR_STUCK:
        told = is_habit(row, ts, best)
    if violated != DETECTOR_NONE:
        suspect, told, best, detector = True, False, max(best, CERTAIN), violated
    if told:
        best = TOLD_SHARE * threshold
    if not told and violated == DETECTOR_NONE and seen >= TAIL_KNOWN:
        rate = pace(seen)
        if calm:
            row["usual_start"], row["usual_excess"] = beyond(
                max(peek(s, SPIKE + k), peek(s, SHIFT + k)),
                float(peek(t, USUAL_START + k)),
                float(peek(t, USUAL_EXCESS + k)),
                rate,
            )
        if peek(s, STRAY + k) >= 0.0:
            row["stray_start"], row["stray_excess"] = beyond(
                peek(s, STRAY + k),
                float(peek(t, STRAY_START + k)),
                float(peek(t, STRAY_EXCESS + k)),
                rate,
            )

    # what violates a limit is a fault, not a habit of the series
    if z > TAIL_FROM and row["outside"] == 0 and violated == DETECTOR_NONE:
        tail = float(peek(t, TAIL + k))
        rate = SPIKE_RATE if calm else SPIKE_RATE * DOUBT
        row["spike_tail"] = tail + rate * (log(z / TAIL_FROM) - tail)
    if z > OUTSIDE:
        stay_outside(row, peek(s, DEVIATION + k))
    else:
        row["outside"] = 0
        learn(row, peek(s, Y + k), peek(s, DEVIATION + k), peek(s, SPREAD + k))
    verdict = 0
    if suspect:
        verdict = SUSPECT | TOLD if told else SUSPECT
    return min(best, MAX_SCORE), detector, verdict


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
                    hours = time // HOUR_NS
                    half = halves[np.uint64(half_of(at, hours))]
                    week = weeks[np.uint64(week_of(at, hours))]
                    limit = limits[np.uint64(peek(kind, at))]
                    outcome = meet(
                        row, half, week, limit, x, time, hours, warmup, lanes, kept, used
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
                ask_for(
                    int(peek(series, i + k)),
                    int(peek(ts, i + k)),
                    rows,
                    halves,
                    weeks,
                    kind,
                    siblings,
                )
            poke(marks, at & (MARKS - 1), 0)
            row, limit = rows[np.uint64(at)], limits[np.uint64(peek(kind, at))]
            s, d, v = judge(row, limit, time, lanes, kept, k)
            signed = peek(lanes, Z + k) if peek(lanes, DEVIATION + k) > 0.0 else -peek(lanes, Z + k)
            if limit["metrics"] > 1:
                first = at - limit["place"]
                apart = apart_score(siblings, first, limit["metrics"], at, time, signed)
                if v & SUSPECT == 0 and apart >= limit["threshold"]:
                    told = was_quiet(row)
                    s = TOLD_SHARE * limit["threshold"] if told else apart
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
            ask_for(int(peek(series, k)), int(peek(ts, k)), rows, halves, weeks, kind, siblings)


@fused
def ask_for(
    at: int, ts: int, rows: Rows, halves: Rows, weeks: Rows, kind: I32, siblings: Rows
) -> None:
    """Have the cache lines brought that a reading of this series and time will touch."""
    for line in range(HOT_LINES):
        prefetch(rows, at, line)
    hours = ts // HOUR_NS
    prefetch(halves, half_of(at, hours))
    prefetch(weeks, week_of(at, hours))
    prefetch(kind, at)
    if len(siblings):
        prefetch(siblings, at)
