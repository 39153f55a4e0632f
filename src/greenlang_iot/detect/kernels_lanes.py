"""What is the same arithmetic for every reading, for up to LANES readings of different series at a time.

A reading is judged in three steps: `kernels_judge.meet` lays out a lane of it, `weigh_lanes` computes all lanes in one loop,
which the compiler turns into vector instructions, and `kernels_judge.judge` decides and learns. One reading by itself
costs about twice as much: a dependent chain of divisions, square roots and logarithms.

Lanes are columns of two flat arrays, `lanes` (float64) and `kept` (float32: fields of the rows as they are,
replaced by what they become). Place `F + k` is field F of lane k. A fixed distance between fields, and
not an array for each, is what tells the compiler that they never overlap.
"""

import numpy as np

from greenlang_iot.detect.kernels_context import (
    LEAN_RATE,
    LEAN_SOONER,
    LOG10E,
    RANGE_RATE,
    RANGE_SHARE,
    RANGE_STEPS,
    REACH,
    RECORD,
    RECORD_FROM,
    ROUGH_RATE,
    ROUGHER_BY,
    ROUGHEST_RATE,
    SETTLED_ROWS,
    SIZE_FLOOR,
    SIZE_RATE,
    SQUARE_FLOOR,
    SQUARE_RATE,
    SQUARE_SOONER,
    away,
    capped,
    long_rate,
    moved,
    sooner,
    strayed,
    usual_unit,
)
from greenlang_iot.detect.kernels_swing import BRIEFEST, LONGEST_RUN, TURNS_AT
from greenlang_iot.detect.kernels_tail import EXCESS, lowered, raised
from greenlang_iot.detect.state import GAUSS_TAIL, NOISE_CUSUM
from greenlang_iot.model.batches import F32, F64, I64, U8
from greenlang_iot.model.jit import fused
from greenlang_iot.model.kernels_log import exp, log

LANES = 16
MARKS = 4096
"""Series are told apart within a block of lanes by their index modulo this."""

# -- float64: what came, what is expected, and what is said of it
(
    X, LAST, SECONDS, BASE, UNIT, Y, LEVEL, DEVIATION, SPREAD, FLOOR, SEEN, SPIKES, SHIFTS, SETTLED,
    RECORDS, PLACE, APART, USUALLY, TURNED, ROUGHER, BEYOND, RESIDUAL, ERROR, Z, CHANGE, MISSED, SPIKE, SHIFT, USUAL_SCORE, BAND, STRAY, STRANGE,
) = range(0, 32 * LANES, LANES)  # fmt: skip
_FLOATS = 32
# -- float32
(
    THRESHOLD, TAIL, UP, DOWN, CUSUM, USUAL_START, USUAL_EXCESS, STRAY_START, STRAY_EXCESS, SIZE,
    SQUARE, LEAN, SIZE_MEAN, SIZE_SD, SQUARE_MEAN, SQUARE_SD, LEAN_MEAN, LEAN_SD, RUN, FARTHEST,
    LONG, FAR, ROUGH, ROUGHEST, HIGHEST, LOWEST,
) = range(0, 26 * LANES, LANES)  # fmt: skip
_KEPT = 26

SIGMA = 1.2533141373155001  # standard deviation / mean absolute deviation of Gaussian noise
PER_LOG10E = 1 / LOG10E
TAIL_FROM = 2.0
LIGHTEST = 0.112  # exponent of a tail that no noise but Gaussian has: 5.14 sigma are five decades
HEAVIER = 2.2  # and how fast it grows where the series' own tail is heavier
NEW_ROWS = 400.0
"""Readings in which a series may still turn out to have a heavy tail, or to wander: at first spikes and shifts are worth two thirds."""
DOUBTED = 6.0
"""Who asks for more decades than that, as profile `spiky` does, doubts enough."""
TAIL_SCORE = 1.342  # −log10 P(|z| > 2)
OUTSIDE = 4.0
MAX_Z = 1e6
MAX_REACH = 13.0  # log(MAX_Z / TAIL_FROM)
HUGE = 1e308
CUSUM_ALLOWANCE = 1.0
USUAL_CUSUM = 0.6  # a series with larger mean CUSUMs wanders by itself
HEAVIER_CUSUM = 2.0
CUSUM_CAP = 20.0  # in mean CUSUMs: an old shift is forgotten within as many readings
SHIFT_RATE = 1 / 256
SHIFT_NEW = 64.0
"""A new series learns faster how its runs of one side weigh, as a mean that begins with so many readings: one that wanders
must be known before it looks like a shift, and a shift must not be learnt while it is found."""
USUAL_BELIEVED = 4_000.0
"""Readings after which the tail of spikes and shifts would be believed."""
USUAL_BELIEF = 0.8
"""Most that it ever is: faults that were missed are in it, too, and would hide the next ones."""
TWO = 0.3
"""Two detectors share it: where each keeps to its decades, so much more is reached as often."""
USUAL_LIGHT = 1.2 * EXCESS
"""Its mean excess must be above this: some faults a day raise it by as much."""
CLOSER = 0.7
"""Share of the spread below which the error of the hour or the week must be: then a value that is no spike may be one for its hour."""
EXPECTED = 2.5
"""Usual sizes of the residual within which a value is what the hour or the week lets expect."""
EXPECTED_WORTH = 0.75
"""Of a spike or shift to such a value: the way back, or what comes at this time every day."""
STRAY_BELIEVED = 20_000.0
"""And that of the context, by the square of the share seen: its readings depend on each other."""


def room() -> tuple[F64, F32, I64, U8]:
    """Room for a block of lanes: `lanes`, `kept`, the row of each lane, and marks of the series that have one."""
    return (
        np.zeros(_FLOATS * LANES),
        np.zeros(_KEPT * LANES, np.float32),
        np.zeros(LANES, np.int64),
        np.zeros(MARKS, np.uint8),
    )


@fused
def weight(tail: float) -> float:
    """The exponent that a tail is believed to have: Gaussian unless it is clearly heavier."""
    return LIGHTEST + HEAVIER * max(tail - GAUSS_TAIL, 0.0)


@fused
def unsure(seen: float, threshold: float) -> float:
    """How much heavier tails and CUSUMs of a new series are taken to be: 1.5 at first, 1 from NEW_ROWS readings on."""
    new = max(1.0 - seen * (1 / NEW_ROWS), 0.0) if threshold <= DOUBTED else 0.0
    return 1.0 + 0.5 * new * new


@fused
def spike_score(z: float, weighed: float) -> float:
    """−log10 of the two-sided tail at z, whose exponent is `weighed`."""
    far = TAIL_SCORE + LOG10E * log(max(z, TAIL_FROM) / TAIL_FROM) / weighed
    near = LOG10E * z * (0.416 * z + 0.717)  # within 3 % of the Gaussian tail
    return near if z <= TAIL_FROM else far


@fused
def reach(weighed: float, threshold: float) -> float:
    """The z at which `spike_score` reaches the threshold."""
    decades = max(threshold - TAIL_SCORE, 0.0)
    return TAIL_FROM * exp(min(weighed * decades * PER_LOG10E, MAX_REACH))


@fused
def weigh_lanes(n: int, lanes: F64, kept: F32) -> None:
    """Compute the first `n` lanes: from X to ERROR and the fields kept, Z to STRANGE and what they become."""
    for k in range(n):
        # how far from what is expected
        deviation, sigma = lanes[DEVIATION + k], lanes[SPREAD + k]
        known = sigma > 0.0  # a series that was always exactly zero has no scale yet
        z = min((abs(deviation) if known else 0.0) / (sigma if known else 1.0), MAX_Z)
        width = lanes[UNIT + k] * sigma
        jump = min(max(lanes[X + k] - lanes[LAST + k], -HUGE), HUGE)
        step = jump if lanes[SECONDS + k] > 0.0 and width > 0.0 else 0.0
        lanes[Z + k] = z
        lanes[CHANGE + k] = min(max(step / (width if width > 0.0 else 1.0), -MAX_Z), MAX_Z)

        # spike and shift
        seen = lanes[SEEN + k]
        threshold = np.float64(kept[THRESHOLD + k])
        heavier = unsure(seen, threshold)
        weighed = heavier * weight(np.float64(kept[TAIL + k]))
        above = deviation > 0.0
        cusum = np.float64(kept[CUSUM + k])
        clipped = min(z, OUTSIDE)
        clipped = clipped if above else -clipped
        cap = CUSUM_CAP * cusum
        up = min(max(np.float64(kept[UP + k]) + clipped - CUSUM_ALLOWANCE, 0.0), cap)
        down = min(max(np.float64(kept[DOWN + k]) - clipped - CUSUM_ALLOWANCE, 0.0), cap)
        total = max(up, down)
        rate = max(1.0 / (seen + SHIFT_NEW), SHIFT_RATE)
        learnt = cusum + rate * (min(total, 4.0 * cusum) - cusum)
        doubt = heavier * (cusum + HEAVIER_CUSUM * max(cusum - USUAL_CUSUM, 0.0))
        shift = LOG10E * (up if above else down) / doubt
        kept[UP + k] = up
        kept[DOWN + k] = down
        kept[CUSUM + k] = max(learnt, NOISE_CUSUM) if total > 0.0 else cusum
        r, usual_error = lanes[RESIDUAL + k], max(SIGMA * lanes[ERROR + k], lanes[FLOOR + k])
        missed = lanes[SETTLED + k] > 0.0 and 0.0 < usual_error < CLOSER * sigma
        missed = missed and abs(r) > z * usual_error
        farther = min((abs(r) if missed else z) / (usual_error if missed else 1.0), MAX_Z)
        lanes[MISSED + k] = 1.0 if missed else 0.0
        spike = lanes[SPIKES + k] * spike_score(farther, weighed)
        shift = lanes[SHIFTS + k] * (shift if z > CUSUM_ALLOWANCE else 0.0)
        lanes[SPIKE + k] = spike
        lanes[SHIFT + k] = shift

        # their score here, and how far a value may stray before it is suspect
        start, excess = np.float64(kept[USUAL_START + k]) - TWO, np.float64(kept[USUAL_EXCESS + k])
        belief = min(seen * (1 / USUAL_BELIEVED), USUAL_BELIEF)
        size_mean = np.float64(kept[SIZE_MEAN + k])
        known = lanes[SETTLED + k] > 0.0 and abs(r) < EXPECTED * size_mean
        usual = lowered(max(spike, shift), start, excess, USUAL_LIGHT, belief)
        lanes[USUAL_SCORE + k] = usual * (EXPECTED_WORTH if known else 1.0)
        needed = raised(threshold, start, excess, USUAL_LIGHT, belief)
        lanes[BAND + k] = sigma * reach(weighed, needed)

        # how rough it is: no branches here either
        rough, roughest = np.float64(kept[ROUGH + k]), np.float64(kept[ROUGHEST + k])
        rough += (ROUGH_RATE if lanes[SECONDS + k] > 0.0 else 0.0) * (min(abs(jump), REACH) - rough)
        lanes[ROUGHER + k] = 1.0 if rough > ROUGHER_BY * roughest > 0.0 else 0.0
        rate = 1.0 if seen < SETTLED_ROWS else ROUGHEST_RATE
        kept[ROUGH + k] = rough
        kept[ROUGHEST + k] = roughest + rate * max(rough - roughest, 0.0)

        # how far this reading and the one before are both outside its range
        place, floor = lanes[PLACE + k], lanes[FLOOR + k]
        newest = lanes[SECONDS + k] > 0.0
        highest, lowest = np.float64(kept[HIGHEST + k]), np.float64(kept[LOWEST + k])
        up = place - max(jump, 0.0) - highest
        down = lowest - place + min(jump, 0.0)
        beyond = max(up, down) - RANGE_STEPS * rough
        outside = newest and beyond > RANGE_SHARE * max(highest - lowest, floor)
        lanes[BEYOND + k] = beyond if outside else 0.0
        rate = RANGE_RATE if lanes[SETTLED + k] > 0.0 else 1.0
        rate = rate if newest else 0.0
        kept[HIGHEST + k] = highest + rate * max(up, 0.0)
        kept[LOWEST + k] = lowest - rate * max(down, 0.0)

        # which side of the slow level it is on (see kernels_swing): no branches, noise turns whenever it likes
        run, farthest = np.float64(kept[RUN + k]), np.float64(kept[FARTHEST + k])
        apart = lanes[APART + k]
        long, far = np.float64(kept[LONG + k]), np.float64(kept[FAR + k])
        high, length = run > 0.0, abs(run)
        over = (apart if high else -apart) < -TURNS_AT * lanes[USUALLY + k]
        step = 1.0 if high else -1.0
        unlike = length >= long or (place > far if high else place < far)
        turned = 1.0 if length >= BRIEFEST else 0.0
        lasts = -1.0 if long > 0.0 and unlike else 0.0
        lanes[TURNED + k] = turned if over else lasts
        kept[RUN + k] = -step if over else run + (step if length < LONGEST_RUN else 0.0)
        farthest = max(place, farthest) if high else min(place, farthest)
        kept[FARTHEST + k] = place if over else farthest

        # the context: three averages of the residual, each against its own history
        soon = sooner(lanes[SECONDS + k])
        size, square, lean = (
            np.float64(kept[SIZE + k]),
            np.float64(kept[SQUARE + k]),
            np.float64(kept[LEAN + k]),
        )
        size += SIZE_RATE * (abs(r) - size)
        square += SQUARE_RATE * (1.0 - SQUARE_SOONER * soon) * (r * r - square)
        lean += LEAN_RATE * (1.0 - LEAN_SOONER * soon) * (r - lean)
        kept[SIZE + k] = size
        kept[SQUARE + k] = square
        kept[LEAN + k] = lean
        lean = abs(lean)
        size_sd = np.float64(kept[SIZE_SD + k])
        square_mean, square_sd = np.float64(kept[SQUARE_MEAN + k]), np.float64(kept[SQUARE_SD + k])
        lean_mean, lean_sd = np.float64(kept[LEAN_MEAN + k]), np.float64(kept[LEAN_SD + k])
        size_unit = usual_unit(size_mean, size_sd, SIZE_FLOOR, floor)
        square_unit = usual_unit(square_mean, square_sd, SQUARE_FLOOR, floor * floor)
        lean_unit = usual_unit(lean_mean, lean_sd, SIZE_FLOOR, floor)
        stray = strayed(
            away(size, size_mean, size_unit),
            away(square, square_mean, square_unit),
            away(lean, lean_mean, lean_unit),
            away(lanes[ERROR + k], size_mean, size_unit),
        )
        stray = stray if lanes[SETTLED + k] > 0.0 else -1.0
        lanes[STRAY + k] = stray
        belief = min(seen * (1 / STRAY_BELIEVED), 1.0)
        strange = lowered(
            stray,
            np.float64(kept[STRAY_START + k]),
            np.float64(kept[STRAY_EXCESS + k]),
            EXCESS,
            belief * belief,
        )
        record = lanes[RECORDS + k]
        strange += RECORD if strange > RECORD_FROM and record > 0.0 else 0.0
        lanes[STRANGE + k] = max(strange, record if z > TAIL_FROM else 0.0)
        rate = long_rate(seen)
        off = capped(size, size_mean, size_unit, seen) - size_mean
        kept[SIZE_MEAN + k] = size_mean + rate * off
        kept[SIZE_SD + k] = moved(size_sd, rate, off)
        off = capped(square, square_mean, square_unit, seen) - square_mean
        kept[SQUARE_MEAN + k] = square_mean + rate * off
        kept[SQUARE_SD + k] = moved(square_sd, rate, off)
        off = capped(lean, lean_mean, lean_unit, seen) - lean_mean
        kept[LEAN_MEAN + k] = lean_mean + rate * off
        kept[LEAN_SD + k] = moved(lean_sd, rate, off)
