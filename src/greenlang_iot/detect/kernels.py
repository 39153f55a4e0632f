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
what this series does all the time is no anomaly. Where both are unusual, the higher score gains a share of the lower.

An anomaly is news once: after a reading over the threshold the next ones are TOLD, with half the
threshold as their score, until the series stayed below the threshold for a while. What comes at the same time
of the day as on other days before, and no stronger, is no news either (kernels_habit). A violated limit is always news.

Level and spread learn from what is inside (z ≤ 4), clipped at 3; what is outside is not learnt
until ADOPT_AFTER readings in a row were: then the change has lasted and becomes the new normal.
"""

import math
from typing import Any

import numpy as np

from greenlang_iot.detect.kernels_context import DOUBT, context_score, half_of
from greenlang_iot.detect.kernels_habit import is_habit
from greenlang_iot.detect.kernels_siblings import apart_score
from greenlang_iot.detect.kernels_tail import EXCESS, beyond, lowered, raised
from greenlang_iot.detect.limits import COUNTER, RESOLUTION
from greenlang_iot.detect.state import GAUSS_TAIL, HOT_LINES, NO_TS, NOISE_CUSUM, RECENT, Rows
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
    DUPLICATE,
    HAS_SEQ,
    LATE,
    LEARNING,
    NOT_LEARNT,
    REPLAYED,
    RETAINED,
    SUSPECT,
    TOLD,
    TS_COLLISION,
)
from greenlang_iot.model.jit import kernel, leaf
from greenlang_iot.model.kernels_prefetch import prefetch

Row = Any
"""One record of Rows: a view, so what is assigned to its fields stays."""

ADOPT_AFTER = 60
"""Readings outside in a row after which a lasting change is the new normal."""
MAX_SCORE = 30.0
CERTAIN = 12.0
"""Score of a violated limit."""

LEVEL_RATE = 0.15
SPREAD_RATE = 0.02
DRIFT_RATE = 0.02
WIDEST = 1e37
"""Deviations that float32 holds with room to spare."""
OTHER_RATE = 0.1
SPIKE_RATE = 1 / 64
SHIFT_RATE = 1 / 256
SIGMA = 1.2533141373155001  # standard deviation / mean absolute deviation of Gaussian noise
LOG10E = 0.4342944819032518
TAIL_FROM = 2.0
LIGHTEST = 0.108  # exponent of a tail that no noise but Gaussian has: 4.97 sigma are five decades
HEAVIER = 2.2  # and how fast it grows where the series' own tail is heavier
TAIL_SCORE = 1.342  # −log10 P(|z| > 2)
CLIP = 3.0
OUTSIDE = 4.0
MAX_Z = 1e6
MAX_REACH = 13.0  # log(MAX_Z / TAIL_FROM)
CUSUM_ALLOWANCE = 1.0
USUAL_CUSUM = 0.6  # a series with larger mean CUSUMs wanders by itself
HEAVIER_CUSUM = 2.0
CUSUM_CAP = 20.0  # in mean CUSUMs: an old shift is forgotten within as many readings
QUIET_SHARE = 0.06  # of the readings seen
QUIET_LEAST = 25.0
QUIET_MOST = 140.0
TOLD_SHARE = 0.5
USUAL_BELIEVED = 4_000.0
"""Readings after which the tail of spikes and shifts is believed."""
TWO = 0.3
"""Two detectors share it: where each keeps to its decades, so much more is reached as often."""
USUAL_LIGHT = 1.2 * EXCESS
"""Its mean excess must be above this: some faults a day raise it by as much."""
STRAY_BELIEVED = 20_000.0
"""And that of the context, by the square of the share seen: its readings depend on each other."""
AGREED = 0.5
"""Share of the lower score that the higher one gains, of what it has above AGREED_FROM."""
AGREED_FROM = 2.0
AGREED_WEIGHT = 0.2
"""Exponent of a tail beyond which it gains less: one far reading of a heavy tail lifts both."""
TAIL_KNOWN = 50
"""Readings before which no tail is learnt."""
RUN_FLOOR = 10.0  # shorter runs of equal values never count as long
RUN_SCORE = 2.0  # score of a run as long as usual
RUN_DECAY = 0.9995  # per finished run
MAX_COUNT = 2**16 - 1
HUGE = 1e308
AHEAD = 6  # rows that are asked for before they are needed
NO_SEQ = 0xFFFFFFFF


@leaf
def fold_seq(seq: int, flags: int) -> int:
    """A seq as 32 bits: exact below 2**32 − 1, spread out beyond and below 0."""
    if flags & HAS_SEQ == 0:
        return NO_SEQ
    # the product stays below 2**61: nothing wraps around
    return ((seq & 0xFFFFFFFF) + ((seq >> 32) & 0xFFFFFFFF) * 0x1E3779B1) & 0xFFFFFFFF


@leaf
def identify(row: Row, ts: int, bits: int, seq: int, connection: int) -> int:
    """Look the identity (ts, seq) up and remember it; returns the flag that it earns, or 0."""
    oldest = 0
    for k in range(RECENT):
        if row["recent_ts"][k] == ts and row["recent_seq"][k] == seq:
            same = row["recent_value"][k] == bits
            here = row["recent_connection"][k] == connection
            row["recent_value"][k] = bits
            row["recent_connection"][k] = connection
            if not same:
                return TS_COLLISION
            return DUPLICATE if here else REPLAYED
        if row["recent_ts"][k] < row["recent_ts"][oldest]:
            oldest = k
    if ts <= row["floor_ts"]:
        return LATE
    if row["recent_ts"][oldest] > ts:
        # older than all that is remembered, newer than all that was forgotten: forget it at once
        row["floor_ts"] = ts
        return 0
    if row["recent_ts"][oldest] > row["floor_ts"]:
        row["floor_ts"] = row["recent_ts"][oldest]
    row["recent_ts"][oldest] = ts
    row["recent_value"][oldest] = bits
    row["recent_seq"][oldest] = seq
    row["recent_connection"][oldest] = connection
    return 0


@leaf
def weight(tail: float) -> float:
    """The exponent that a tail is believed to have: Gaussian unless it is clearly heavier."""
    return LIGHTEST + HEAVIER * max(tail - GAUSS_TAIL, 0.0)


@leaf
def spike_score(z: float, tail: float) -> float:
    """−log10 of the two-sided tail at z."""
    if z <= TAIL_FROM:
        return LOG10E * z * (0.416 * z + 0.717)  # within 3 % of the Gaussian tail
    return TAIL_SCORE + LOG10E * math.log(z / TAIL_FROM) / weight(tail)


@leaf
def reach(tail: float, threshold: float) -> float:
    """The z at which `spike_score` reaches the threshold."""
    decades = max(threshold - TAIL_SCORE, 0.0)
    return TAIL_FROM * math.exp(min(weight(tail) * decades / LOG10E, MAX_REACH))


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
        row["level"] += (step + drift) * max(1.0 / (n + 1.0), LEVEL_RATE)
        row["drift"] = min(max(drift + DRIFT_RATE * step, -WIDEST), WIDEST)
        row["spread"] = min(spread + (abs(step) - spread) * max(1.0 / n, SPREAD_RATE), WIDEST)
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
def follow_shift(row: Row, z: float, above: bool) -> float:
    """Add a signed z to the CUSUMs; returns the score of the side that this reading is on."""
    excess = float(row["shift_excess"])
    clipped = min(z, OUTSIDE)
    if not above:
        clipped = -clipped
    cap = CUSUM_CAP * excess
    up = min(max(float(row["shift_up"]) + clipped - CUSUM_ALLOWANCE, 0.0), cap)
    down = min(max(float(row["shift_down"]) - clipped - CUSUM_ALLOWANCE, 0.0), cap)
    row["shift_up"] = up
    row["shift_down"] = down
    total = max(up, down)
    if total > 0.0:
        moved = excess + SHIFT_RATE * (min(total, 4.0 * excess) - excess)
        row["shift_excess"] = max(moved, NOISE_CUSUM)
    if z <= CUSUM_ALLOWANCE:
        return 0.0
    doubt = excess + HEAVIER_CUSUM * max(excess - USUAL_CUSUM, 0.0)
    return LOG10E * (up if above else down) / doubt


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


@leaf
def unusual(row: Row, enabled: int, z: float, above: bool, tail: float) -> tuple[float, int]:
    """The higher of the raw scores of spike and shift, and its detector."""
    best, detector = 0.0, DETECTOR_NONE
    if enabled & (1 << DETECTOR_SPIKE):
        best, detector = spike_score(z, tail), DETECTOR_SPIKE
    shift = follow_shift(row, z, above)
    if enabled & (1 << DETECTOR_SHIFT) and shift > best:
        best, detector = shift, DETECTOR_SHIFT
    return best, detector


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


@leaf
def judge(
    row: Row, half: Row, limit: Row, x: float, ts: int, warmup: int
) -> tuple[float, int, int, float, float, float, float]:
    """Judge one reading against its series, then learn from it.

    half: the line of `state.halves` that holds the hour of `ts`.
    Returns score, detector, verdict, expected, band, and for the second stage the signed z of the
    value and of its change.
    """
    last = float(row["last_value"])
    seconds = arrive(row, limit, x, ts)
    base, unit, y = 0.0, 1.0, x
    if limit["detectors"] & COUNTER:
        if seconds <= 0.0 or x < last:  # first, late, or the counter restarted
            return 0.0, DETECTOR_NONE, 0, np.nan, np.nan, 0.0, 0.0
        base, unit, y = last, seconds, min((x - last) / seconds, HUGE)

    level = float(row["level"]) + float(row["drift"])
    deviation = min(max(y - level, -HUGE), HUGE)
    floor = float(limit["floor"])
    if floor == 0.0:
        floor = RESOLUTION * abs(level)
    sigma = max(SIGMA * float(row["spread"]), floor)
    if row["n"] < warmup:
        learn(row, y, deviation, sigma)
        return 0.0, DETECTOR_NONE, LEARNING, np.nan, np.nan, 0.0, 0.0

    # a series that was always exactly zero has no scale yet: nothing can be said of a first change
    z, change = 0.0, 0.0
    if sigma > 0.0:
        z = min(abs(deviation) / sigma, MAX_Z)
        if seconds > 0.0:
            change = min(max(x - last, -HUGE), HUGE) / (unit * sigma)
            change = min(max(change, -MAX_Z), MAX_Z)
    above = deviation > 0.0
    enabled = limit["detectors"]
    threshold = float(limit["threshold"])
    tail = float(row["spike_tail"])
    seen = int(row["seen"])
    usual, detector = unusual(row, enabled, z, above, tail)
    start, excess = float(row["usual_start"]) - TWO, float(row["usual_excess"])
    belief = min(seen / USUAL_BELIEVED, 1.0)
    best = lowered(usual, start, excess, USUAL_LIGHT, belief)
    band = sigma * reach(tail, raised(threshold, start, excess, USUAL_LIGHT, belief))
    stray = -1.0
    if enabled & (1 << DETECTOR_CONTEXT):
        stray = context_score(row, half, y, ts, floor)
        belief = min(seen / STRAY_BELIEVED, 1.0)
        strange = lowered(
            stray, float(row["stray_start"]), float(row["stray_excess"]), EXCESS, belief * belief
        )
        agreed = max(min(best, strange) - AGREED_FROM, 0.0)
        if agreed > 0.0:
            agreed *= AGREED * min(AGREED_WEIGHT / weight(tail), 1.0)
        if strange > best:
            best, detector = strange, DETECTOR_CONTEXT
        best += agreed
    if enabled & (1 << DETECTOR_STUCK) and seconds >= 0.0 and row["usual_run"] > 0.0:
        stuck = RUN_SCORE * (row["run"] - 1.0) / max(float(row["usual_run"]), RUN_FLOOR)
        if stuck > best:
            best, detector = stuck, DETECTOR_STUCK
    suspect = best >= threshold
    calm = row["quiet"] == 0  # nothing was told lately
    told = is_told(row, suspect, detector, best, threshold)
    violated = violation(limit, x, last, level, seconds, band)
    if suspect and not told and violated == DETECTOR_NONE and detector != DETECTOR_STUCK:
        told = is_habit(row, ts, best)
    if violated != DETECTOR_NONE:
        suspect, told, best, detector = True, False, max(best, CERTAIN), violated
    if told:
        best = TOLD_SHARE * threshold
    if not told and violated == DETECTOR_NONE and seen >= TAIL_KNOWN:
        if calm:
            row["usual_start"], row["usual_excess"] = beyond(usual, start + TWO, excess, seen)
        if stray >= 0.0:
            row["stray_start"], row["stray_excess"] = beyond(
                stray, float(row["stray_start"]), float(row["stray_excess"]), seen
            )

    # what violates a limit is a fault, not a habit of the series
    if z > TAIL_FROM and row["outside"] == 0 and violated == DETECTOR_NONE:
        rate = SPIKE_RATE if calm else SPIKE_RATE * DOUBT
        row["spike_tail"] = tail + rate * (math.log(z / TAIL_FROM) - tail)
    if z > OUTSIDE:
        stay_outside(row, deviation)
    else:
        row["outside"] = 0
        learn(row, y, deviation, sigma)
    verdict = 0
    if suspect:
        verdict = SUSPECT | TOLD if told else SUSPECT
    return (
        min(best, MAX_SCORE),
        detector,
        verdict,
        base + level * unit,
        band * unit,
        z if above else -z,
        change,
    )


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
    limits: Rows,
    siblings: Rows,
    score: F32,
    detector: U8,
    verdict: U8,
    expected: F32,
    band: F32,
    z: F32,
    change: F32,
) -> None:
    """Judge and learn `n` readings in row order; sets the duplicate bits in `flags`.

    bits: the values' bits (`value.view(int64)`). rows, limits: state.ROW and limits.LIMIT rows, by
    series; halves: `state.halves(rows)`; siblings: kernels_siblings.SIBLING rows, none where no limit row
    has several metrics. All else is a column of the batch; the last seven are written.
    """
    for i in range(n):
        if i + AHEAD < n:
            ahead = series[i + AHEAD]
            for line in range(HOT_LINES):
                prefetch(rows, ahead, line)
            prefetch(halves, half_of(ahead, ts[i + AHEAD]))
            prefetch(limits, ahead)
            if len(siblings):
                prefetch(siblings, ahead)
        score[i] = 0.0
        detector[i] = DETECTOR_NONE
        verdict[i] = 0
        expected[i] = np.nan
        band[i] = np.nan
        z[i] = 0.0
        change[i] = 0.0
        x = float(value[i])
        if x - x != 0.0:
            continue  # NaN or infinite: decode rejects these
        row = rows[series[i]]
        flag = int(flags[i])
        flag |= identify(row, ts[i], bits[i], fold_seq(seq[i], flag), connection)
        flags[i] = flag
        if flag & RETAINED == 0:
            row["heard_ns"] = clock_ns
        if flag & NOT_LEARNT:
            continue
        s, d, v, e, b, signed, moved = judge(
            row, halves[half_of(series[i], ts[i])], limits[series[i]], x, ts[i], warmup
        )
        limit = limits[series[i]]
        if limit["metrics"] > 1 and v & LEARNING == 0:
            apart = apart_score(
                siblings, limit["first"], limit["metrics"], series[i], ts[i], signed
            )
            if v & SUSPECT == 0 and apart >= limit["threshold"]:
                told = was_quiet(row)
                s = TOLD_SHARE * limit["threshold"] if told else apart
                d = DETECTOR_RIVER
                v |= SUSPECT | TOLD if told else SUSPECT
        score[i] = s
        detector[i] = d
        verdict[i] = v
        expected[i] = e
        band[i] = b
        z[i] = signed
        change[i] = moved


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
) -> None:
    """Set the duplicate bits in `flags` and note what came last; nothing is judged or learnt."""
    for i in range(n):
        if i + AHEAD < n:
            ahead = series[i + AHEAD]
            for line in range(HOT_LINES - 1):
                prefetch(rows, ahead, line)
            prefetch(limits, ahead)
        x = float(value[i])
        if x - x != 0.0:
            continue
        row = rows[series[i]]
        flag = int(flags[i])
        flag |= identify(row, ts[i], bits[i], fold_seq(seq[i], flag), connection)
        flags[i] = flag
        if flag & RETAINED == 0:
            row["heard_ns"] = clock_ns
        if flag & NOT_LEARNT == 0:
            arrive(row, limits[series[i]], x, ts[i])
