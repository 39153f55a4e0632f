"""The registry's part of a judgement: one cache line per kind of series, rebuilt when the registry is.

Series are of one kind where the registry asks the same of them; a fleet has a few kinds, so its lines stay in the
nearest cache. Of a series itself only the number of its kind is kept.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from greenlang_iot.detect.state import Rows, aligned
from greenlang_iot.model.batches import I32, I64
from greenlang_iot.model.directory import PROFILES, Directory
from greenlang_iot.model.flags import (
    DETECTOR_CONTEXT,
    DETECTOR_RANGE,
    DETECTOR_RATE,
    DETECTOR_SHIFT,
    DETECTOR_SPIKE,
    DETECTOR_STUCK,
    DETECTOR_SWING,
)
from greenlang_iot.model.kinds import kinds

LIMIT = np.dtype(
    {
        "names": [
            "warn_low",
            "warn_high",
            "step",
            "floor",
            "gap_ns",
            "threshold",
            "detectors",
            "place",
            "metrics",
        ],
        "formats": ["f8", "f8", "f8", "f8", "i8", "f4", "u4", "i4", "i4"],
        "offsets": [0, 8, 16, 24, 32, 40, 44, 48, 52],
        "itemsize": 64,
    }
)

COUNTER = 1
"""Bit 0 of `detectors`: the value is a running total, its increase per second is judged.
Bit d (1 << DETECTOR_…) switches detector d on."""

FOLLOWED = 1 << DETECTOR_CONTEXT | 1 << DETECTOR_SWING
"""Detectors that need what is usual by the hour and slowly."""
_ALWAYS = 1 << DETECTOR_RATE | 1 << DETECTOR_RANGE
_ALL = (
    _ALWAYS
    | 1 << DETECTOR_SPIKE
    | 1 << DETECTOR_SHIFT
    | 1 << DETECTOR_STUCK
    | 1 << DETECTOR_CONTEXT
    | 1 << DETECTOR_SWING
)

PROFILE_RULES: dict[str, tuple[float, int]] = {
    "default": (1.0, _ALL),
    "spiky": (1.45, _ALL),
    "smooth": (0.8, _ALL),
    "counter": (1.0, _ALL & ~(1 << DETECTOR_STUCK) | COUNTER),
    "binary": (1.0, _ALWAYS | 1 << DETECTOR_SWING),
    "seasonal": (1.0, _ALL),  # as default: hours of the day are learnt for every series
}
"""Per profile: factor on the threshold, and which detectors judge."""

RESOLUTION = 1e-4
"""No sensor is trusted to be finer than this share of its valid range."""
GAP_INTERVALS = 120
"""After a gap of so many expected intervals the old level says nothing: the series learns anew."""


@dataclass(slots=True, frozen=True)
class Limits:
    """LIMIT rows by kind, and the kind of each series.

    place: how many series of its device come before a series. metrics: how many series its device has, 1 where they
    are not compared.
    """

    rows: Rows
    kind: I32

    def of(self, series: npt.NDArray[np.intp]) -> Rows:
        """The LIMIT rows of some series: a copy."""
        rows: Rows = self.rows[self.kind[series]]
        return rows


def limits(directory: Directory, threshold: float, siblings: bool = False) -> Limits:
    """What the registry asks of the series of `directory`.

    siblings: compare the metrics of a device with each other; otherwise each counts as the only one.
    """
    d = directory
    columns: list[npt.NDArray[Any]] = [
        d.warn_low,
        d.warn_high,
        d.step,
        d.low,
        d.high,
        d.interval_ns,
        d.profile,
    ]
    if siblings:
        start = d.series_start
        metrics = np.diff(start).astype(np.int32)[d.series_device]
        place = (np.arange(d.n_series) - start[d.series_device]).astype(np.int32)
        columns += [metrics, place]
    first, kind = kinds(*columns)  # few, where every type of device has its own
    rows = _of_kinds(d, first, threshold)
    if siblings:
        rows["metrics"], rows["place"] = metrics[first], place[first]
    return Limits(rows, kind)


def _of_kinds(directory: Directory, which: I64, threshold: float) -> Rows:
    """The LIMIT rows of some series, each as if it were the only one of its device."""
    rows = aligned(len(which), LIMIT)
    factors = np.array([PROFILE_RULES[name][0] for name in PROFILES])
    detectors = np.array([PROFILE_RULES[name][1] for name in PROFILES], np.uint32)
    rows["warn_low"] = directory.warn_low[which]
    rows["warn_high"] = directory.warn_high[which]
    rows["step"] = directory.step[which]
    rows["threshold"] = threshold * factors[directory.profile[which]]
    rows["detectors"] = detectors[directory.profile[which]]
    rows["gap_ns"] = directory.interval_ns[which] * GAP_INTERVALS
    counter = (rows["detectors"] & COUNTER) != 0
    with np.errstate(over="ignore", invalid="ignore"):
        width = directory.high[which] - directory.low[which]
    # 0 = take a share of the level instead: an open range and a rate have no width
    rows["floor"] = np.where(np.isfinite(width) & ~counter, width * RESOLUTION, 0.0)
    rows["metrics"] = 1
    return rows
