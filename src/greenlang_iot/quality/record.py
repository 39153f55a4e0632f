"""What is counted of a device, and a window of such counts: known to shards and parent."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.batches import F64
from greenlang_iot.settings.model import QualitySettings

SLOTS = 6
"""Slots of a window."""
RING = 8
"""Slots kept: six of the window, the present one, and the next (clocks run ahead)."""
FIELDS = 8
"""Fields of a window's record."""
RECEIVED, ARRIVED, ON_TIME, INCONSISTENT, JUDGED, ACCURATE, REJECTED, LEAST_LAG = range(FIELDS)
NO_LAG = 2**31 - 1
"""LEAST_LAG (ms) of a slot in which nothing arrived."""
NEVER = -(2**62)
"""Time of a reference that has said nothing yet."""

ROW = 16
"""int32s that are counted of a device, a cache line: RECEIVED of RING slots, what arrived in the present one,
and (int64) the event time of its newest reading."""
NOW_ARRIVED, NOW_ON_TIME, NOW_INCONSISTENT, NOW_JUDGED, NOW_ACCURATE, NOW_LEAST_LAG = range(
    RING, RING + 6
)
NEWEST = 7
"""Place in a row of int64s."""


@dataclass(slots=True, frozen=True)
class Window:
    """Sums of the window that ended at `to_ns`, by device index.

    expected: readings due by the registry's intervals, without the newest slot, as in RECEIVED.
    records: int64[devices, FIELDS] (LEAST_LAG is the least of the slots; NO_LAG where nothing arrived).
    """

    from_ns: int
    to_ns: int
    expected: F64
    records: npt.NDArray[np.int64]


def slot_ns(settings: QualitySettings) -> int:
    """Length of a slot; slots are counted since 1970, so all shards have the same."""
    return int(settings.window * 1e9) // SLOTS
