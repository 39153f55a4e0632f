"""What repeats, but not by the day: pumps, tanks, machines on and off, batches.

A series swings about its slow level: it stays on one side for some readings, then on the other. Of either side four
figures are remembered: how long it usually stays there and how long at most lately, and how far it usually goes and by how much that
varies. Unlike itself is a series that

stays   longer than its longest stay, by what such a maximum may still grow (for stays of exponential length that is what
        one in 10⁵ exceeds), or by a share of the usual stay where all stays are alike;
goes    farther than usual, or turned back sooner;
turned  after a stay that was much shorter than usual.

Nothing is said before ten swings to either side, nor of stays of six hours or more: they are a matter of the hours of the day. Series
whose swings are all different (noise) say nothing: neither do their stays keep to a length nor their turns to a height.
The score is five decades at the limit and grows in proportion beyond.
"""

import math
from typing import Any

import numpy as np

from greenlang_iot.model.jit import leaf
from greenlang_iot.model.kernels_log import log

Row = Any
"""One record of Rows: a view, so what is assigned to its fields stays. (`float` of a float32 field would stay float32 when compiled.)"""

TURNS_AT = 0.25
"""Of its usual distance from the slow level that a value must be on the other side: then the series has turned."""
BRIEFEST = 5
"""Readings of a stay; what is shorter is noise at the turn, and not learnt."""
COUNTED = 10
"""Stays on either side before anything is said."""
MOST_COUNTED = 255
YOUNG = 60
"""Stays before which one that goes farther than a whole swing is the first of another way to swing: a machine that starts."""
LONGEST_RUN = 32_766
STAY_RATE = 0.05
LONGEST_FADES = 0.002
"""Share of its distance from the usual stay that the longest one loses at every stay."""
LONGEST_GROWS = 2.0
"""Times the longest stay so far that one counts for at most: a fault is not a habit."""
DECADES = 11.5
"""log of 10⁵: the longest of n stays is log n usual ones, one in 10⁵ is so many."""
SHARE = 0.3
"""Of the usual stay that it must be longer, or shorter, where all are alike."""
LEAST_LONG = 12.0
EVEN = 2.0
"""Times the usual stay below which the longest must be: stays are of a length."""
UNEVEN_COUNTED = 60
UNEVEN_FIRM = 0.1
"""Stays of no length are believed after so many, between two levels: turns vary by less than this share of the swing."""
TURN_DEVIATIONS = 8.0
TURN_SHARE = 0.1
TURN_MOST = 0.4
"""A turn is out of the way by so many usual deviations and this share of the swing, if that is less than so much of the swing."""
FINEST = 1e-6
"""Of the turn: what float32 does not tell apart is not judged."""
LEARNT_DEVIATIONS = 3.0
QUARTER_DAY = 21_600.0
FARTHEST = 1e30
"""Where nothing is too far."""
NEVER = 65_535
"""Where nothing is too long."""
AT_LIMIT = 5.0
"""Score there."""


@leaf
def unlike(row: Row, x: float, seconds: float, over: bool) -> float:
    """The score of a reading by which the series turned, or stays too long or goes too far; a stay that is over is learnt.

    Asked before the row knows of the reading. x: above the row's anchor. seconds: since the reading before.
    """
    run, farthest = int(row["swing_run"]), np.float64(row["swing_farthest"])
    side = 1 if run > 0 else 0
    length = run if run > 0 else -run
    if over:
        return turned(row, side, length, farthest, seconds)
    return lasting(row, side, length + 1, x)


@leaf
def lasting(row: Row, side: int, length: int, x: float) -> float:
    """The score of a stay that lasts, and of how far it went."""
    turn, far = np.float64(row["swing_turn"][side]), np.float64(row["swing_far"][side])
    score: float = AT_LIMIT * length / np.float64(row["swing_long"][side])
    score = score if score > AT_LIMIT else 0.0
    beyond = (x - turn) / (far - turn)  # never 0 / 0: where nothing is too far, it is a far limit
    return max(score, AT_LIMIT * beyond if beyond > 1.0 else 0.0)


@leaf
def turned(row: Row, side: int, length: int, farthest: float, seconds: float) -> float:
    """The series is on the other side. The score of the stay that is over, which is learnt."""
    count, other = int(row["swing_count"][side]), int(row["swing_count"][1 - side])
    stay: float = np.float64(row["swing_stay"][side])
    longest: float = np.float64(row["swing_longest"][side])
    turn: float = np.float64(row["swing_turn"][side])
    varies: float = np.float64(row["swing_varies"][side])
    facing = np.float64(row["swing_turn"][1 - side])
    sign = 1.0 if side == 1 else -1.0
    whole = sign * (turn - facing)
    score = 0.0
    if row["swing_long"][side] > 0:
        off, room = sign * (turn - farthest), sign * (np.float64(row["swing_far"][side]) - turn)
        if off > room:
            score = AT_LIMIT * off / room
        short = SHARE * stay + (longest - stay)
        if short < stay - BRIEFEST and stay - length > short:
            score = max(score, AT_LIMIT * (stay - length) / short)

    stayed, off = float(length), farthest - turn
    if 0 < count < YOUNG and other > 0 and abs(off) > whole:
        count = other = 0
        row["swing_count"][1 - side] = 0
    rate = STAY_RATE
    if count * STAY_RATE < 1.0:  # no division where it says nothing
        rate = max(1.0 / (count + 1.0), STAY_RATE)
    if count >= COUNTED:
        stayed = min(stayed, LONGEST_GROWS * longest)
        most = LEARNT_DEVIATIONS * varies + TURN_SHARE * whole
        off = min(max(off, -most), most)
    stay += rate * (stayed - stay)
    longest = max(longest - LONGEST_FADES * (longest - stay), stayed)
    varies = 0.0 if count == 0 else varies + rate * (abs(off) - varies)
    turn = farthest if count == 0 else turn + rate * off
    if count < MOST_COUNTED:
        count += 1
    row["swing_stay"][side], row["swing_longest"][side] = stay, longest
    row["swing_turn"][side], row["swing_varies"][side] = turn, varies
    row["swing_count"][side] = count

    # what is too long and too far from now on
    long, far = 0, sign * FARTHEST
    slower = max(stay, np.float64(row["swing_stay"][1 - side]))
    if min(count, other) >= COUNTED and slower * seconds <= QUARTER_DAY:
        long = NEVER
        whole = sign * (turn - facing)
        room = TURN_DEVIATIONS * varies + TURN_SHARE * whole
        if FINEST * abs(turn) < room < TURN_MOST * whole:
            far = turn + sign * room
        unsteady = max(varies, np.float64(row["swing_varies"][1 - side]))
        between = count >= UNEVEN_COUNTED and unsteady < UNEVEN_FIRM * whole
        if between or longest < EVEN * stay:
            grows = max(DECADES / log(1.0 * count) - 1.0, 0.5)
            limit = max(longest + max(grows * (longest - stay), SHARE * stay), LEAST_LONG)
            if limit * seconds < QUARTER_DAY:
                long = min(math.ceil(limit), NEVER)
    row["swing_long"][side], row["swing_far"][side] = long, far
    return score
