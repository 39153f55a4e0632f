"""Does a metric still follow its siblings, the other metrics of its device?

Looked at is z of each metric, how far it stands from its own level in its own deviations: what a season or
a trend does to all of them is gone from it. Where the others' mean explains at least half of the
variance of a metric, the residual of that regression is small, and its energy over some five readings says
when the metric goes its own way, though no value of it is unusual.

A device's metrics are a set while they have the same time stamp; a set is weighed when the next one begins,
so a metric is judged one reading later. A metric that is missing from a set is left out of it.
Means move slowly (RATE): a lasting change of what follows what is learnt within hundreds of readings, and a metric
that follows nothing any more is not judged.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.jit import leaf
from greenlang_iot.model.kernels_log import log

Rows = npt.NDArray[np.void]
Row = Any
"""One record of Rows: a view, so what is assigned to its fields stays."""

SIBLING = np.dtype(
    [
        ("set_ts", np.int64),  # of the newest set; in the record of the device's first metric
        ("z", np.float32),  # of the newest reading
        ("own", np.float32),  # mean of z², of z × the others' mean, and of the others' mean squared
        ("both", np.float32),
        ("others", np.float32),
        ("apart", np.float32),  # of the squared residual lately
        ("sets", np.uint16),  # it was in; stops at its largest number
        ("in_set", np.uint8),  # is z of the newest set?
        ("begun", np.uint8),  # has there been a set? In the record of the device's first metric
    ]
)
"""A series' record, 32 bytes; only of devices with several metrics is it ever touched. All zeros: nothing is known."""

CLIP = 4.0
"""z counts for at most so much: one spike uncouples nothing."""
RATE = 1 / 512
KNOWN = 300
"""Sets before which nothing is judged."""
COUPLED = 0.5
"""Share of the variance that the others must explain."""
LATELY = 0.2
FAR = 16.0
"""One squared residual counts for at most so many usual ones."""
LEAST = 0.02
"""Share of its own variance that a residual is believed to have at least: copies are rounded."""
DECADES = 1.3
"""Decades for each unit of x − 1 − log x, x the energy in usual ones: a Gamma tail of shape 3 (4.5 for independent residuals)."""
MOST_SETS = 2**16 - 1


@leaf
def usual_energy(one: Row) -> float:
    """Mean squared residual of a metric that follows the others; 0 where it does not, or is not known."""
    # 1.0 ×, because compiled float32 × float32 would stay float32
    own, both, others = 1.0 * one["own"], 1.0 * one["both"], 1.0 * one["others"]
    if one["sets"] < KNOWN or both * both <= COUPLED * own * others:
        return 0.0
    usual: float = max(own - both * both / others, LEAST * own)
    return usual


@leaf
def weigh(records: Rows, first: int, metrics: int) -> None:
    """Learn from the set that is over, and begin a new one."""
    total, count = 0.0, 0
    for at in range(first, first + metrics):
        if records[at]["in_set"]:
            total += float(records[at]["z"])
            count += 1
    for at in range(first, first + metrics):
        one = records[at]
        if one["in_set"] == 0:
            continue
        one["in_set"] = 0
        if count < 2:
            continue
        z = 1.0 * one["z"]
        mean = (total - z) / (count - 1.0)
        own, both, others = 1.0 * one["own"], 1.0 * one["both"], 1.0 * one["others"]
        usual = usual_energy(one)
        if usual > 0.0:
            residual = z - both / others * mean
            apart = 1.0 * one["apart"]
            one["apart"] = apart + LATELY * (min(residual * residual, FAR * usual) - apart)
        else:
            one["apart"] = 0.0
        sets = int(one["sets"])
        rate = max(1.0 / (sets + 1.0), RATE)
        one["own"] = own + rate * (z * z - own)
        one["both"] = both + rate * (z * mean - both)
        one["others"] = others + rate * (mean * mean - others)
        if sets < MOST_SETS:
            one["sets"] = sets + 1


@leaf
def apart_score(records: Rows, first: int, metrics: int, at: int, ts: int, z: float) -> float:
    """−log10 of how seldom the metric `at` is so far from its siblings; notes its newest z.

    records: of the device, `metrics` of them from `first` on.
    """
    one, head = records[at], records[first]
    if head["begun"] == 0 or ts > head["set_ts"]:
        weigh(records, first, metrics)
        head["set_ts"] = ts
        head["begun"] = 1
    if ts == head["set_ts"]:
        one["z"] = min(max(z, -CLIP), CLIP)
        one["in_set"] = 1
    usual = usual_energy(one)
    if usual <= 0.0 or float(one["apart"]) <= usual:
        return 0.0
    x: float = 1.0 * one["apart"] / usual
    return DECADES * (x - 1.0 - log(x))
