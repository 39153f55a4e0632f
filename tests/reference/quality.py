"""Slow twins of quality: counts from a list of what arrived, one reading at a time, in plain Python."""

from collections import Counter
from dataclasses import dataclass, field

from greenlang_iot.model import flags as bits

AGAIN = bits.DUPLICATE | bits.REPLAYED | bits.TS_COLLISION


@dataclass
class Arrival:
    """A reading that arrived at `received_ns`, with what was found out about it."""

    device: int
    ts_ns: int
    received_ns: int
    flags: int = 0
    learning: bool = False
    within: bool | None = None  # the expected band; None: there is none


@dataclass
class Truth:
    """Counts of one device over [from_ns, to_ns)."""

    counts: Counter[str] = field(default_factory=Counter)
    least_lag_ms: int | None = None


def truth(
    arrivals: list[Arrival], device: int, from_ns: int, to_ns: int, due_ns: int, limit_ns: int
) -> Truth:
    """What the records of a window must hold; `arrivals` in the order of arrival.

    due_ns: end of the part of the window for which readings are due.
    """
    result = Truth()
    newest = None
    for item in arrivals:
        if item.device != device or item.flags & bits.RETAINED:
            continue
        backwards = newest is not None and item.ts_ns < newest
        newest = item.ts_ns if newest is None else max(newest, item.ts_ns)
        if from_ns <= item.ts_ns < due_ns and not item.flags & AGAIN:
            result.counts["received"] += 1
        if not from_ns <= item.received_ns < to_ns:
            continue
        lag = item.received_ns - item.ts_ns
        result.counts["arrived"] += 1
        result.counts["on_time"] += lag <= limit_ns
        result.counts["inconsistent"] += bool(item.flags & (AGAIN | bits.LATE)) or backwards
        if not item.flags & bits.CLOCK_SUSPECT:
            lag_ms = lag // 1_000_000
            least = result.least_lag_ms
            result.least_lag_ms = lag_ms if least is None else min(least, lag_ms)
        learnt = not item.flags & (bits.NOT_LEARNT | bits.CLOCK_SUSPECT)
        if learnt and not item.learning and item.within is not None:
            result.counts["judged"] += 1
            result.counts["accurate"] += item.within
    return result
