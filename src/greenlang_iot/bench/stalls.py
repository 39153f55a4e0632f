"""Stalls of the machine itself: moments in which a core computes several times slower than it did just before.

Virtual machines and processors that are too warm do that for tens of milliseconds; whoever measures a p99 measures it, too. A
witness sees them: it does the same small piece of work, which hardly touches memory, again and again, in thread CPU time. A core that
is only shared with others is no stall: what waits for a core takes no CPU time.
"""

import os
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.batches import F64

EVERY = 0.002
"""Seconds between two looks."""
SLOW = 4.0
"""Times the usual from which on the machine stalls."""
ON_ITS_WAY = 0.05
"""Seconds before a stall from which on a message may still be on its way when it comes."""
SETTLES = 0.2
"""Seconds after it until batches are as small as before."""
_WORK = range(600)

Interval = tuple[float, float]


def watch(seconds: float, cores: set[int]) -> list[Interval]:
    """Look for so long, on these cores; returns what was found, in monotonic seconds."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    at: list[float] = []
    took: list[int] = []
    try:
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            begun = time.thread_time_ns()
            sum(_WORK)
            took.append(time.thread_time_ns() - begun)
            at.append(now)
            time.sleep(EVERY)
    finally:
        os.sched_setaffinity(0, mine)
    return stalls(at, took)


def stalls(at: list[float], took: list[int]) -> list[Interval]:
    """Runs of at least two looks in a row that took SLOW times the median, from the look before to the one after.

    at: monotonic seconds of each look; took: its ns. One slow look alone is an interrupt.
    """
    slow = np.array(took) >= SLOW * np.median(took)
    found: list[Interval] = []
    first = 0
    for look in range(len(at) + 1):
        if look < len(at) and slow[look]:
            continue
        if look - first >= 2:
            found.append((at[max(first - 1, 0)], at[min(look, len(at) - 1)]))
        first = look + 1
    return found


def felt(found: list[Interval], share: float) -> list[Interval]:
    """When each is felt: by what was on its way, and until its backlog is worked off. share: of capacity, that is asked for."""
    share = min(share, 0.99)
    drain = share / (1.0 - share)
    return [(a - ON_ITS_WAY, b + (b - a) * drain + SETTLES) for a, b in found]


def without(found: Sequence[Interval], moments: F64) -> npt.NDArray[np.bool_]:
    """bool[n] of moments float64[n], in monotonic seconds: it is in none of the intervals."""
    result = np.ones(len(moments), np.bool_)
    for a, b in found:
        result &= (moments < a) | (moments > b)
    return result
