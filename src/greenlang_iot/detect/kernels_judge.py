"""What is judged of one reading, before and after the arithmetic that lanes share: `meet` lays a lane out, `judge` decides and learns.

Every raw score becomes −log10 of the share of normal readings at least as extreme:

spike   z = |value − level| / spread, or where the hour or the week says better what to expect, the residual
        in its usual errors, if that is farther. Up to z = 2 the Gaussian tail; beyond, a power of z whose
        exponent is what this series showed lately (Hill's estimate; never lighter than Gaussian).
shift   two one-sided CUSUMs of z, clipped at 4 so that one reading alone proves nothing;
        exponential tail with the mean of this series' own positive CUSUMs.
stuck   length of a run of equal values against the longest that is usual here.
context the series strays from its usual day (kernels_context).
swing   it swings unlike itself between two sides (kernels_swing); needs what the context computes.
rate, range  a violated limit of the registry is certain.

Spike and shift together, and context, stand against the tail of their own raw scores (kernels_tail):
what this series does all the time is no anomaly. A spike or shift to what the hour lets expect counts less, and so do those of
a new series. Where both are unusual, the higher score gains a share of the lower.

An anomaly is news once: after a reading over the threshold the next ones are TOLD, with a score just below
the threshold, until the series stayed below it for a while. What comes at the same time
of the day as on other days before, and no stronger, is no news either (kernels_habit). A violated limit is always news.
"""

from typing import Any

import numpy as np

from greenlang_iot.detect.kernels_arrival import MAX_COUNT, RUN_FLOOR, arrive
from greenlang_iot.detect.kernels_baseline import learn, stay_outside
from greenlang_iot.detect.kernels_context import (
    DOUBT,
    range_score,
    residual,
    rougher_score,
    settled,
)
from greenlang_iot.detect.kernels_habit import is_habit, is_rest
from greenlang_iot.detect.kernels_lanes import (
    APART,
    BAND,
    BASE,
    BEYOND,
    CUSUM,
    DEVIATION,
    DOWN,
    ERROR,
    FAR,
    FARTHEST,
    FLOOR,
    HIGHEST,
    HUGE,
    LAST,
    LEAN,
    LEAN_MEAN,
    LEAN_SD,
    LEVEL,
    LONG,
    LOWEST,
    MISSED,
    OUTSIDE,
    PLACE,
    RECORDS,
    RESIDUAL,
    ROUGH,
    ROUGHER,
    ROUGHEST,
    RUN,
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
    TURNED,
    UNIT,
    UP,
    USUAL_EXCESS,
    USUAL_SCORE,
    USUAL_START,
    USUALLY,
    X,
    Y,
    Z,
    weight,
)  # fmt: skip
from greenlang_iot.detect.kernels_news import (
    QUIET_AFTER_HABIT,
    is_farther,
    is_told,
    told_score,
)
from greenlang_iot.detect.kernels_swing import unlike
from greenlang_iot.detect.kernels_tail import beyond, pace
from greenlang_iot.detect.limits import COUNTER, FOLLOWED, RESOLUTION
from greenlang_iot.model.batches import F32, F64
from greenlang_iot.model.flags import (
    DETECTOR_CONTEXT,
    DETECTOR_NONE,
    DETECTOR_RANGE,
    DETECTOR_RATE,
    DETECTOR_SHIFT,
    DETECTOR_SPIKE,
    DETECTOR_STUCK,
    DETECTOR_SWING,
    FARTHER,
    HABIT,
    LEARNING,
    SUSPECT,
    TOLD,
)
from greenlang_iot.model.jit import fused, leaf
from greenlang_iot.model.kernels_log import log
from greenlang_iot.model.kernels_words import peek, poke

Row = Any
"""One record of Rows: a view, so what is assigned to its fields stays."""

MAX_SCORE = 30.0
CERTAIN = 12.0
"""Score of a violated limit."""
SPIKE_RATE = 1 / 64
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


@fused
def meet(
    row: Row,
    half: Row,
    week: Row,
    limit: Row,
    x: float,
    ts: int,
    hours: int,
    hour: int,
    piece: int,
    warmup: int,
    s: F64,
    t: F32,
    k: int,
) -> int:
    """Note what came, and lay out lane `k` of what is judged of it (kernels_lanes).

    half, week: the lines of `state.halves` and `state.weeks` that hold the hour of `ts`, which is `hours` since 1970 and
    stands there at `hour` and `piece` (kernels_context.places_of).
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
    if enabled & FOLLOWED:
        strayed, error, record, place, apart, usually = residual(
            row, half, week, y, hours, hour, piece, seconds
        )
        poke(s, SETTLED + k, 1.0 if settled(row, hours) else 0.0)
        poke(s, RECORDS + k, record)
        poke(s, PLACE + k, place)
        poke(s, APART + k, apart)
        poke(s, USUALLY + k, usually)
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
        side = np.int64(row["swing_run"] > 0)
        poke(t, RUN + k, row["swing_run"])
        poke(t, FARTHEST + k, row["swing_farthest"])
        poke(t, LONG + k, row["swing_long"][side])
        poke(t, FAR + k, row["swing_far"][side])
        poke(t, ROUGH + k, row["rough"])
        poke(t, ROUGHEST + k, row["roughest"])
        poke(t, HIGHEST + k, row["highest"])
        poke(t, LOWEST + k, row["lowest"])
    else:
        poke(s, SETTLED + k, 0.0)
        poke(s, RECORDS + k, 0.0)
        poke(s, PLACE + k, 0.0)
        poke(s, APART + k, 0.0)
        poke(s, USUALLY + k, 0.0)
        poke(t, LONG + k, 0.0)
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
    threshold = float(peek(t, THRESHOLD + k))
    z, seen = peek(s, Z + k), peek(s, SEEN + k)
    best, strange = peek(s, USUAL_SCORE + k), peek(s, STRANGE + k)
    if enabled & FOLLOWED:
        row["size"], row["square"], row["lean"] = (
            peek(t, SIZE + k),
            peek(t, SQUARE + k),
            peek(t, LEAN + k),
        )
        row["size_mean"], row["size_sd"] = peek(t, SIZE_MEAN + k), peek(t, SIZE_SD + k)
        row["square_mean"], row["square_sd"] = peek(t, SQUARE_MEAN + k), peek(t, SQUARE_SD + k)
        row["lean_mean"], row["lean_sd"] = peek(t, LEAN_MEAN + k), peek(t, LEAN_SD + k)
        if peek(s, ROUGHER + k) > 0.0 and not enabled & COUNTER:
            strange = max(strange, rougher_score(row, ts, seen, float(peek(t, ROUGH + k))))
        if peek(s, BEYOND + k) > 0.0 and not enabled & COUNTER:
            beyond_range = peek(s, BEYOND + k)
            strange = max(strange, range_score(row, ts, seen, beyond_range, peek(s, FLOOR + k)))
        row["rough"], row["roughest"] = peek(t, ROUGH + k), peek(t, ROUGHEST + k)
        row["highest"], row["lowest"] = peek(t, HIGHEST + k), peek(t, LOWEST + k)
    if not enabled & (1 << DETECTOR_CONTEXT):
        strange = 0.0
    missed = peek(s, MISSED + k) > 0.0  # it is no spike, but for its hour
    detector = DETECTOR_CONTEXT if missed else DETECTOR_SPIKE
    if peek(s, SHIFT + k) > peek(s, SPIKE + k):
        detector = DETECTOR_SHIFT
    if not enabled & (1 << DETECTOR_SPIKE) and peek(s, SHIFT + k) <= 0.0:
        detector = DETECTOR_NONE
    agreed = max(min(best, strange) - AGREED_FROM, 0.0)
    if agreed > 0.0:
        agreed *= AGREED * min(AGREED_WEIGHT / weight(float(peek(t, TAIL + k))), 1.0)
    detector = DETECTOR_CONTEXT if strange > best else detector
    best = max(best, strange) + agreed
    if enabled & (1 << DETECTOR_SWING) and peek(s, SECONDS + k) >= 0.0:
        if peek(s, TURNED + k) != 0.0:
            over = peek(s, TURNED + k) > 0.0
            swung = unlike(row, peek(s, PLACE + k), peek(s, SECONDS + k), over)
            if swung > best and peek(s, SETTLED + k) > 0.0:
                best, detector = swung, DETECTOR_SWING
        row["swing_run"] = np.int16(peek(t, RUN + k))
        row["swing_farthest"] = peek(t, FARTHEST + k)
    if row["run"] > 1 and enabled & (1 << DETECTOR_STUCK) and peek(s, SECONDS + k) >= 0.0:
        usual_run = float(row["usual_run"])
        if usual_run > 0.0:
            stuck = RUN_SCORE * (row["run"] - 1.0) / max(usual_run, RUN_FLOOR)
            if stuck > best:
                best, detector = stuck, DETECTOR_STUCK
    suspect = best >= threshold
    quiet = int(row["quiet"])
    calm = quiet == 0  # nothing was told lately
    told = is_told(row, suspect, detector, best, threshold)
    violated = violation(
        limit,
        peek(s, X + k),
        peek(s, LAST + k),
        peek(s, LEVEL + k),
        peek(s, SECONDS + k),
        peek(s, BAND + k),
    )
    daily = False
    if suspect and violated == DETECTOR_NONE and detector != DETECTOR_STUCK:
        if told:
            daily = quiet <= QUIET_AFTER_HABIT and is_rest(row, ts)
        else:
            told = daily = is_habit(row, ts, best)
        if daily:
            row["quiet"] = QUIET_AFTER_HABIT
    if violated != DETECTOR_NONE:
        suspect, told, best, detector = True, False, max(best, CERTAIN), violated
    if told:
        best = told_score(best, threshold)
    if not told and violated == DETECTOR_NONE and seen >= TAIL_KNOWN:
        rate = pace(seen)
        if calm:
            row["usual_start"], row["usual_excess"] = beyond(
                max(peek(s, SPIKE + k), peek(s, SHIFT + k)),
                float(peek(t, USUAL_START + k)),
                float(peek(t, USUAL_EXCESS + k)),
                0.0 if missed else rate,
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
    farther = False
    if z > OUTSIDE:
        farther = told and not daily and is_farther(row, peek(s, DEVIATION + k))
        stay_outside(row, peek(s, DEVIATION + k))
    else:
        row["outside"] = 0
        learn(row, peek(s, Y + k), peek(s, DEVIATION + k), peek(s, SPREAD + k))
    verdict = 0
    if suspect:
        verdict = SUSPECT | TOLD if told else SUSPECT
        verdict |= HABIT if daily else 0
        verdict |= FARTHER if farther else 0
    return min(best, MAX_SCORE), detector, verdict
