"""The contextual detector: has the series behaved unlike itself for a while?

A reading is compared with what is usual at this hour of the day (24 levels, learnt online) or with
a slow average, whichever was closer lately. Of the residual three averages are kept: two short ones of its
size and its square, and a longer one of its sign, that sees what departs slowly. Each stands against its own long history: the excess over its mean, in
standard deviations. The score is a weighted sum of the logarithms of the three, so that it rises
when the series strays in several ways at once, and a heavy tail does not blow it up.

All of it is relative to the series itself. Two floors keep well-behaved series quiet: a standard
deviation is never less than a share of its mean, and no residual below the sensor's resolution
counts. Nothing is judged before the series was seen for two days: the hours are not known before.
"""

import math
from typing import Any

from greenlang_iot.detect.state import HALF, HOT_LINES, ROW_LINES
from greenlang_iot.model.jit import leaf

Row = Any
"""One record of Rows: a view, so what is assigned to its fields stays."""

HOUR_NS = 3_600_000_000_000
HALF_NS = HALF * HOUR_NS
DAY_NS = 2 * HALF_NS
SETTLED_HOURS = 48
"""Event time after the first reading before which nothing is judged."""
SETTLED_ROWS = 100

HOUR_RATE = 0.05
HOUR_LEARNT = 20  # readings of an hour after which its level moves at HOUR_RATE
DOUBT = 0.2  # share of that rate while an anomaly was told lately
SLOW_RATE = 0.005
BETTER_RATE = 0.01
SIZE_RATE = 0.1
SQUARE_RATE = 0.05
LEAN_RATE = 0.02
LONG_RATE = 2e-4
CAP = 20.0  # deviations above its mean that the history learns at most
UNCAPPED_ROWS = 20
SIZE_FLOOR = 0.3
SQUARE_FLOOR = 0.6
SQUARE_WEIGHT = 1.0
LEAN_WEIGHT = 0.7
PER_UNIT = 1.25
"""−log10 of the tail share for a unit of the weighted sum: measured, see docs/decisions."""
REACH = 1e18
"""Larger residuals count as this large: their squares stay within float32."""
MAX_SEEN = 2**16 - 1


@leaf
def away(x: float, mean: float, deviation: float) -> float:
    """How far `x` stands above its mean, in deviations; at least 0."""
    if x <= mean or deviation <= 0.0:
        return 0.0
    return (x - mean) / deviation


@leaf
def moved(deviation: float, rate: float, d: float) -> float:
    """The standard deviation after a reading that stood `d` from the mean."""
    # in this order, because compiled float32 × float32 would stay float32
    return math.sqrt((1.0 - rate) * deviation * deviation + (1.0 - rate) * rate * d * d)


@leaf
def half_of(series: int, ts: int) -> int:
    """The record of `state.halves` that a reading of this time touches."""
    return ROW_LINES * series + HOT_LINES + (ts % DAY_NS) // HALF_NS


@leaf
def residual(row: Row, half: Row, y: float, ts: int) -> float:
    """The reading against the better of its two expectations; both learn from it afterwards."""
    if row["seen"] == 0:
        row["anchor"] = y
        row["first_hour"] = ts // HOUR_NS
    x = min(max(y - float(row["anchor"]), -REACH), REACH)
    hour = (ts % HALF_NS) // HOUR_NS
    learnt = int(half["seen"][hour])
    slow = float(row["slow_level"])
    apart = x - slow
    if learnt == 0:
        half["level"][hour] = x
        result = apart
    else:
        level = float(half["level"][hour])
        usual = x - level
        of_hour, of_slow = float(row["hour_error"]), float(row["slow_error"])
        row["hour_error"] = of_hour + BETTER_RATE * (abs(usual) - of_hour)
        result = apart if of_slow < float(row["hour_error"]) else usual
        row["slow_error"] = of_slow + BETTER_RATE * (abs(apart) - of_slow)
        rate = max(1.0 / (learnt + 1.0), HOUR_RATE)
        if row["quiet"] > 0:
            rate *= DOUBT  # an anomaly of today is not what is usual tomorrow
        half["level"][hour] = level + rate * usual
    if learnt < HOUR_LEARNT:
        half["seen"][hour] = learnt + 1
    row["slow_level"] = slow + SLOW_RATE * apart
    return result


@leaf
def context_score(row: Row, half: Row, y: float, ts: int, resolution: float) -> float:
    """−log10 of the tail share of what the series did lately, −1 where nothing is judged yet; learns from the reading.

    half: the line of `state.halves` with this hour. resolution: the least residual that means anything, in the value's unit.
    """
    r = residual(row, half, y, ts)
    size = float(row["size"]) + SIZE_RATE * (abs(r) - float(row["size"]))
    square = float(row["square"]) + SQUARE_RATE * (r * r - float(row["square"]))
    lean = float(row["lean"]) + LEAN_RATE * (r - float(row["lean"]))
    row["size"] = size
    row["square"] = square
    row["lean"] = lean
    lean = abs(lean)
    size_mean, size_sd = float(row["size_mean"]), float(row["size_sd"])
    square_mean, square_sd = float(row["square_mean"]), float(row["square_sd"])
    lean_mean, lean_sd = float(row["lean_mean"]), float(row["lean_sd"])
    size_unit = max(size_sd, SIZE_FLOOR * size_mean, resolution)
    square_unit = max(square_sd, SQUARE_FLOOR * square_mean, resolution * resolution)
    lean_unit = max(lean_sd, SIZE_FLOOR * lean_mean, resolution)
    seen = int(row["seen"])
    score = -1.0
    if seen >= SETTLED_ROWS and ts // HOUR_NS - row["first_hour"] >= SETTLED_HOURS:
        a = 1.0 + away(size, size_mean, size_unit)
        b = 1.0 + away(square, square_mean, square_unit)
        c = 1.0 + away(lean, lean_mean, lean_unit)
        score = PER_UNIT * (math.log(a) + SQUARE_WEIGHT * math.log(b) + LEAN_WEIGHT * math.log(c))
    if seen >= UNCAPPED_ROWS:
        size = min(size, size_mean + CAP * size_unit)
        square = min(square, square_mean + CAP * square_unit)
        lean = min(lean, lean_mean + CAP * lean_unit)
    if seen < MAX_SEEN:
        row["seen"] = seen + 1
    rate = max(1.0 / (seen + 1.0), LONG_RATE)
    row["size_mean"] = size_mean + rate * (size - size_mean)
    row["size_sd"] = moved(size_sd, rate, size - size_mean)
    row["square_mean"] = square_mean + rate * (square - square_mean)
    row["square_sd"] = moved(square_sd, rate, square - square_mean)
    row["lean_mean"] = lean_mean + rate * (lean - lean_mean)
    row["lean_sd"] = moved(lean_sd, rate, lean - lean_mean)
    return score
