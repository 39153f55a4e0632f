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


@dataclass
class Said:
    """A reading of a device that is compared with a reference sensor, or of that sensor."""

    series: int
    ts_ns: int
    value: float
    flags: int = 0


def compared(
    said: list[Said], reference: dict[int, int], tolerance: dict[int, float], age_ns: dict[int, int]
) -> list[bool | None]:
    """Per reading of a series with a reference: is it within the tolerance of the reference's newest
    reading? None: not judged, because the reference said nothing at that time, or it is no such series.

    reference: series → its reference's series. age_ns: per reference, how far apart the two may lie.
    """
    newest: dict[int, Said] = {}
    judged: list[bool | None] = []
    for item in said:
        verdict = None
        sound = not item.flags & (bits.NOT_LEARNT | bits.CLOCK_SUSPECT)
        other = reference.get(item.series)
        if sound and other in newest:
            at = newest[other]
            if abs(item.ts_ns - at.ts_ns) <= age_ns[other]:
                verdict = abs(item.value - at.value) <= tolerance[item.series]
        judged.append(verdict)
        if sound and item.series in reference.values():
            before = newest.get(item.series)
            if before is None or item.ts_ns >= before.ts_ns:
                newest[item.series] = item
    return judged


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
