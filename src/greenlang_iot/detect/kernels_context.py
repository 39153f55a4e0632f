"""The contextual detector: has the series behaved unlike itself for a while?

A reading is compared with what is usual at this hour of the day (24 levels, learnt online), or at this hour and
in this piece of the week (28 offsets of six hours, from the second week on), or with a slow average, whichever was closer lately. Of the residual three averages are kept: two short ones of its
size and its square, and a longer one of its sign, that sees what departs slowly (square and sign take longer where readings come sooner than every five minutes). Each stands against its own long history: the excess over its mean, in
standard deviations; so does, against the history of the size, the error of the expectation over some 100 readings.
The score is a weighted sum of the logarithms of the four, so that it rises
when the series strays in several ways at once, and a heavy tail does not blow it up. Where it is high, it gains more
if the value is farther from the slow average than any before; and what is much farther is strange by itself, whatever the noise.
So is a series that is much rougher than ever, within its range or not: the mean size of its steps from one reading to the next
against the largest that this was. And one that leaves its range, the highest and lowest that two readings in a row ever reached,
for two readings in a row.

All of it is relative to the series itself. Two floors keep well-behaved series quiet: a standard
deviation is never less than a share of its mean, and no residual below the sensor's resolution
counts. Nothing is judged before the series was seen for two days: the hours are not known before. Where readings come every
few seconds a day is slow beside them, and five hundred are enough.
"""

import math
from typing import Any

import numpy as np

from greenlang_iot.detect.state import HALF, HOT_LINES, PIECE_HOURS, PIECES
from greenlang_iot.model.jit import fused, leaf
from greenlang_iot.model.kernels_log import log

Row = Any
"""One record of Rows: a view, so what is assigned to its fields stays."""

LOG10E = 0.4342944819032518
HOUR_NS = 3_600_000_000_000
HOURS = 2 * HALF
"""Of a day."""
SETTLED_HOURS = 48
"""Event time after the first reading before which nothing is judged."""
SETTLED_ROWS = 100
SOON_ROWS = 500
"""Readings after which a series that is read at least every five seconds is judged: a day is slow beside them."""
SOON_PER_HOUR = 720

HOUR_RATE = 0.05
HOUR_PACE = 1_200.0
"""Seconds between readings from which on it grows with them, up to HOUR_RATE_MOST."""
HOUR_RATE_MOST = 0.3
HOUR_LEARNT = 20  # readings of an hour after which its level moves at HOUR_RATE
DOUBT = 0.2  # share of that rate while an anomaly was told lately
SLOW_RATE = 0.005
WEEK_RATE = 0.005
WEEK_HOURS = 168
"""Event time after the first reading from which on pieces of the week are believed."""
BETTER_RATE = 0.01
SIZE_RATE = 0.1
SQUARE_RATE = 0.05
LEAN_RATE = 0.02
RECORD = 1.5
"""Decades that a strange reading gains which is a record: farther from the slow level than any before in its half of the day."""
FARTHER = 1.2
"""Times as far that makes it one."""
RECORD_FROM = 2.0  # score from which on it gains them
RECORD_POWER = 4.0
"""Power of the distance with which a record's own share falls: twice as far is 1.2 decades."""
MOST_FARTHER = 10.0
ROUGH_RATE = 0.05
ROUGHEST_RATE = 0.01
"""How fast a series that is rougher than ever is believed to be so for good, from SETTLED_ROWS readings on."""
ROUGHER_BY = 1.5
"""Times as rough as ever that it must be."""
ROUGHER_POWER = 6.0
"""Power of that with which its share falls: averages have lighter tails than readings."""
RANGE_RATE = 0.05
"""How fast a series that left its range is believed to have a wider one, once it is judged."""
RANGE_STEPS = 2.0
RANGE_SHARE = 0.02
"""It must be left by so many usual steps of these days, and this share of it beyond."""
RANGE_POWER = 160.0
RANGE_POWERS = 6.0, 25.0
"""Power with which its share falls: RANGE_POWER residuals' usual size in the range, within these. Noise fills its range seldom, levels and cycles always."""
BRIEF = 300.0
"""Seconds between readings below which hours, and two of the averages, become slower: what lasts a while must not be a matter of ten minutes."""
BRIEF_HOURS = 0.25
"""Share of HOUR_RATE that is left of it: of every reading a minute it would be the last twenty minutes that are remembered, not the hour."""
SQUARE_SOONER = 0.4  # share of their rates that is gone where readings come at once
LEAN_SOONER = 0.7
LONG_RATE = 2e-4
CAP = 20.0  # deviations above its mean that the history learns at most
UNCAPPED_ROWS = 20
SIZE_FLOOR = 0.3
SQUARE_FLOOR = 0.6
LEAN_WEIGHT = 0.7
ERROR_WEIGHT = 0.4
PER_UNIT = 1.19
"""−log10 of the tail share for a unit of the weighted sum: measured, see docs/decisions."""
REACH = 1e18
"""Larger residuals count as this large: their squares stay within float32."""
FAR_ANCHOR = 3e38
"""Float32 ends there."""
FARTHEST = 1e300
"""Products of distances count as this at most."""
MAX_SEEN = 2**16 - 1


@fused
def away(x: float, mean: float, unit: float) -> float:
    """How far `x` stands above its mean, in deviations; at least 0."""
    known = unit > 0.0
    return (max(x - mean, 0.0) if known else 0.0) / (unit if known else 1.0)


@fused
def moved(deviation: float, rate: float, d: float) -> float:
    """The standard deviation after a reading that stood `d` from the mean."""
    return math.sqrt((1.0 - rate) * (deviation * deviation + rate * (d * d)))


@fused
def sooner(seconds: float) -> float:
    """By how much a reading came sooner than BRIEF, as a share of it; 1 where it is the first, or late."""
    return 1.0 - min(max(seconds, 0.0), BRIEF) * (1 / BRIEF)


@fused
def lines_of(hours: int) -> tuple[int, int]:
    """Which cache lines of its row a reading touches besides the first ones: (of the day, of the week).

    hours: since 1970, of its event time.
    """
    day = HOT_LINES + hours % HOURS // HALF
    week = HOT_LINES + 2 + hours // (PIECE_HOURS * PIECES) % 2
    return day, week


@fused
def places_of(hours: int) -> tuple[int, int]:
    """Where in these lines the hour stands, and the piece of the week."""
    return hours % HALF, hours // PIECE_HOURS % PIECES


@fused
def residual(
    row: Row, half: Row, week: Row, y: float, hours: int, hour: int, piece: int, seconds: float
) -> tuple[float, float, float, float, float, float]:
    """The reading against the best of its three expectations, their usual error, its score as a record; where it is above anchor and slow level, and how far from that usually. All learn from it afterwards.

    The first reading of an hour has no residual: what is not known cannot be missed, and the history of a series would
    begin with errors that never come again.
    """
    if row["seen"] == 0:
        row["anchor"] = min(max(y, -FAR_ANCHOR), FAR_ANCHOR)
        row["first_hour"] = hours
    x = min(max(y - np.float64(row["anchor"]), -REACH), REACH)
    if row["seen"] == 0:
        row["highest"] = row["lowest"] = x
    learnt = int(half["seen"][hour])
    slow = float(row["slow_level"])
    apart, usually = x - slow, float(row["slow_error"])
    if learnt == 0:
        half["level"][hour] = x
        result, error = 0.0, 0.0
    else:
        level = float(half["level"][hour])
        usual = x - level
        of_hour, of_slow = float(row["hour_error"]), float(row["slow_error"])
        of_hour += BETTER_RATE * (abs(usual) - of_hour)
        row["hour_error"] = of_hour
        row["slow_error"] = of_slow + BETTER_RATE * (abs(apart) - of_slow)
        slower = of_slow < of_hour
        result = apart if slower else usual
        error = of_slow if slower else of_hour
        offset, of_week = float(week["level"][piece]), float(week["error"])
        within = usual - offset
        if hours - int(row["first_hour"]) >= WEEK_HOURS:
            of_week += BETTER_RATE * (abs(within) - of_week)
            closer = of_week < error
            result = within if closer else result
            error = of_week if closer else error
        else:
            of_week = max(of_week, of_hour)
        week["error"] = of_week
        seen = int(row["seen"])
        week_rate = WEEK_RATE
        if seen * WEEK_RATE < 2.0 * PIECES:
            week_rate = max(2.0 * PIECES / (seen + 2.0 * PIECES), WEEK_RATE)
        rate = HOUR_RATE * min(max(seconds * (1 / BRIEF), BRIEF_HOURS), 1.0)  # of yesterday, too
        if seconds > HOUR_PACE:  # an hour with few readings must not take weeks to follow a trend
            rate = min(HOUR_RATE / HOUR_PACE * seconds, HOUR_RATE_MOST)
        if learnt < HOUR_LEARNT:
            rate = max(1.0 / (learnt + 1.0), rate)
        if row["quiet"] > 0:
            rate *= DOUBT  # an anomaly of today is not what is usual tomorrow
            week_rate *= DOUBT
        week["level"][piece] = offset + week_rate * within
        half["level"][hour] = level + rate * usual
    if learnt < HOUR_LEARNT:
        half["seen"][hour] = learnt + 1
    row["slow_level"] = slow + SLOW_RATE * apart
    far, farthest = abs(apart), float(half["farthest"])
    half["farthest"] = max(far, farthest)
    return result, error, record_score(row, hours, far, farthest), x, apart, usually


@fused
def knows_a_day(row: Row, hours: int) -> bool:
    """Were all hours of the day, and both of its halves, met before?"""
    return row["seen"] >= SETTLED_ROWS and hours - int(row["first_hour"]) >= SETTLED_HOURS


@leaf
def record_score(row: Row, hours: int, far: float, farthest: float) -> float:
    """−log10 of how seldom a reading is so far from the slow level, 0 where it is no record.

    Of n readings the farthest is farther than any before once in n, whatever the noise; that it is so by a factor is as
    seldom as its power.
    """
    if far <= FARTHER * farthest or not knows_a_day(row, hours):
        return 0.0
    factor = min(far / farthest, MOST_FARTHER) if farthest > 0.0 else MOST_FARTHER
    return LOG10E * (log(1.0 * row["seen"]) + RECORD_POWER * log(factor))


@leaf
def rougher_score(row: Row, ts: int, seen: float, rough: float) -> float:
    """−log10 of how seldom a series is so rough, likewise; asked where it is rougher than any before, of which its row knows."""
    if seen < SETTLED_ROWS or ts // HOUR_NS - int(row["first_hour"]) < SETTLED_HOURS:
        return 0.0
    factor = min(rough / float(row["roughest"]), MOST_FARTHER)
    return LOG10E * (log(seen) + ROUGHER_POWER * log(factor))


@leaf
def range_score(row: Row, ts: int, seen: float, beyond: float, floor: float) -> float:
    """−log10 of how seldom a series is this far outside its range, likewise; asked before its row knows."""
    if seen < SETTLED_ROWS or ts // HOUR_NS - int(row["first_hour"]) < SETTLED_HOURS:
        return 0.0
    width: float = max(np.float64(row["highest"]) - np.float64(row["lowest"]), floor)
    if width <= 0.0:
        return 0.0
    factor = min(1.0 + 2.0 * beyond / width, MOST_FARTHER)
    power: float = RANGE_POWER * np.float64(row["size_mean"]) / width
    power = min(max(power, RANGE_POWERS[0]), RANGE_POWERS[1])
    return LOG10E * (log(seen) + power * log(factor))


@fused
def settled(row: Row, hours: int) -> bool:
    """Is a reading of this time judged? The hours of a day are not known before, nor missed where readings come fast."""
    if knows_a_day(row, hours):
        return True
    return int(row["seen"]) >= max(SOON_ROWS, SOON_PER_HOUR * (hours - int(row["first_hour"])))


@fused
def usual_unit(mean: float, deviation: float, share: float, least: float) -> float:
    """What one deviation is worth."""
    return max(deviation, share * mean, least)


@fused
def capped(x: float, mean: float, unit: float, seen: float) -> float:
    """As much of `x` as the history learns."""
    return min(x, mean + CAP * unit) if seen >= UNCAPPED_ROWS else x


@fused
def strayed(a: float, b: float, c: float, d: float) -> float:
    """−log10 of the tail share: size, square, sign and error stand `a`, `b`, `c`, `d` deviations above their means."""
    ab = (1.0 + a) * (1.0 + b)
    lean, error = log(min(1.0 + c, FARTHEST)), log(min(1.0 + d, FARTHEST))
    return PER_UNIT * (log(min(ab, FARTHEST)) + LEAN_WEIGHT * lean + ERROR_WEIGHT * error)


@fused
def long_rate(seen: float) -> float:
    """How fast the history moves after so many readings."""
    return max(1.0 / (seen + 1.0), LONG_RATE)
