"""The registry's part of a judgement: one cache line per series, rebuilt when the registry is."""

import numpy as np

from greenlang_iot.detect.state import Rows, aligned
from greenlang_iot.model.batches import I64
from greenlang_iot.model.directory import PROFILES, Directory
from greenlang_iot.model.flags import (
    DETECTOR_CONTEXT,
    DETECTOR_RANGE,
    DETECTOR_RATE,
    DETECTOR_SHIFT,
    DETECTOR_SPIKE,
    DETECTOR_STUCK,
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
            "first",
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

_ALWAYS = 1 << DETECTOR_RATE | 1 << DETECTOR_RANGE
_ALL = (
    _ALWAYS
    | 1 << DETECTOR_SPIKE
    | 1 << DETECTOR_SHIFT
    | 1 << DETECTOR_STUCK
    | 1 << DETECTOR_CONTEXT
)

PROFILE_RULES: dict[str, tuple[float, int]] = {
    "default": (1.0, _ALL),
    "spiky": (1.5, _ALL),
    "smooth": (0.8, _ALL),
    "counter": (1.0, _ALL & ~(1 << DETECTOR_STUCK) | COUNTER),
    "binary": (1.0, _ALWAYS),
    "seasonal": (1.0, _ALL),
}
"""Per profile: factor on the threshold, and which detectors judge."""

RESOLUTION = 1e-4
"""No sensor is trusted to be finer than this share of its valid range."""
GAP_INTERVALS = 120
"""After a gap of so many expected intervals the old level says nothing: the series learns anew."""


def limits(directory: Directory, threshold: float, siblings: bool = False) -> Rows:
    """One LIMIT row per series of `directory`.

    siblings: compare the metrics of a device with each other; otherwise each counts as the only one.
    """
    d = directory
    first, kind = kinds(
        *(d.warn_low, d.warn_high, d.step, d.low, d.high, d.interval_ns, d.profile)
    )  # few, where every type of device has its own
    table = _of_kinds(d, first, threshold)
    rows = aligned(d.n_series, LIMIT)
    wide = np.dtype((np.void, LIMIT.itemsize))
    np.take(table.view(wide), kind, out=rows.view(wide), mode="clip")  # "raise" would copy
    if siblings:
        start = d.series_start
        rows["first"] = start[d.series_device]
        rows["metrics"] = (start[1:] - start[:-1])[d.series_device]
    return rows


def _of_kinds(directory: Directory, which: I64, threshold: float) -> Rows:
    """The LIMIT rows of some series, but for what they have to do with their siblings."""
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
