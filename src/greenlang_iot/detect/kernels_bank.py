"""The second stage's kernels: which rows it looks at, their features, and what its opinion of them changes."""

import math
from typing import Any

from greenlang_iot.model.batches import F32, F64, I32, I64, U8, U16
from greenlang_iot.model.flags import (
    DETECTOR_RIVER,
    DETECTOR_SHIFT,
    DETECTOR_SPIKE,
    LEARNING,
    NOT_LEARNT,
    SECOND_STAGE,
    SHED,
    SUSPECT,
    TOLD,
)
from greenlang_iot.model.jit import kernel, leaf

DAY_NS = 86_400_000_000_000
UNIT = 1_000_000
"""What one observation costs, in millionths: the budget is kept in whole numbers, so that a batch
of n spends exactly what n batches of one would."""


@leaf
def squash(z: float) -> float:
    """Any z into (0, 1), steepest where normal readings are."""
    return 0.5 + 0.5 * z / (4.0 + abs(z))


@kernel
def choose(
    n: int,
    series: I32,
    flags: U16,
    verdict: U8,
    z: F32,
    newest: F32,
    sample: int,
    stride: int,
    per_reading: int,
    credit: int,
    most: int,
    ready: bool,
    rows: I64,
    learn: U8,
) -> tuple[int, int]:
    """Go through a batch of n readings; returns how many `rows` are to be looked at, and what is left of the budget.

    Due are suspects, and every `stride`th reading from row `sample` on, the sample, unless it is learning or not
    learnt. What the budget has room for is marked SECOND_STAGE in `verdict`, and written to `rows` in ascending
    order, `learn` being 1 where it is of the sample; what is due and not affordable, or not `ready`, is marked SHED.
    per_reading, credit, most: what a reading adds to the budget, what it has, and what it can hold, in millionths.
    Where nothing is looked at, the newest z of each series is noted; else `observe` does that.
    """
    chosen = done = 0
    for row in range(n):
        sampled = row == sample
        if sampled:
            sample += stride
            sampled = verdict[row] & (SUSPECT | LEARNING) == 0 and flags[row] & NOT_LEARNT == 0
        if sampled or verdict[row] & SUSPECT != 0:
            credit = min(credit + per_reading * (row + 1 - done), most)
            done = row + 1
            if credit < UNIT or not ready:
                verdict[row] |= SHED
            else:
                credit -= UNIT
                verdict[row] |= SECOND_STAGE
                rows[chosen] = row
                learn[chosen] = sampled
                chosen += 1
    if chosen == 0:
        for row in range(n):
            if flags[row] & NOT_LEARNT == 0:
                newest[series[row]] = z[row]
    return chosen, min(credit + per_reading * (n - done), most)


@kernel
def observe(
    n: int,
    series: I32,
    ts_ns: I64,
    flags: U16,
    z: F32,
    change: F32,
    newest: F32,
    rows: I64,
    first: I64,
    places: I32,
    places_at: I64,
    out_at: I64,
    features: F64,
) -> None:
    """Go through a batch of n readings: note the newest z of each series, and write the features of `rows`, in
    ascending order, as they stood at each of them.

    first: of each row's device, its first series. places[places_at[i]:places_at[i + 1]]: of row i, by column which
    of the device's series it is, −1: none. features, from out_at[i] on: for row i its columns, the change of the
    reading and its time of day. Of several readings of a series the newest counts.
    """
    done = 0
    for i in range(len(rows) + 1):
        end = int(rows[i]) + 1 if i < len(rows) else n
        for row in range(done, end):
            if flags[row] & NOT_LEARNT == 0:
                newest[series[row]] = z[row]
        done = end
        if i == len(rows):
            break
        out = int(out_at[i])
        for place in range(places_at[i], places_at[i + 1]):
            at = int(places[place])
            features[out] = squash(float(newest[first[i] + at])) if at >= 0 else 0.5
            out += 1
        features[out] = squash(float(change[end - 1]))
        features[out + 1] = (ts_ns[end - 1] % DAY_NS) / DAY_NS


@kernel
def weigh(
    scores: F64,
    learn: U8,
    learnt: int,
    silent: int,
    unsure: int,
    slowest: float,
    mean: F64,
    variance: F64,
    opinion: F64,
) -> int:
    """How much stranger than usual each of n observations is, in [−1, 1]; returns how many were learnt all in all.

    scores: float64[detectors, n], in the order of time. mean, variance: of each detector's scores; it learns those
    whose `learn` is not 0, at a rate of 1 / (scores learnt), `slowest` at least. opinion, float64[n]: the mean of the
    detectors. learnt: observations before these; the first `unsure` scores are not learnt, the first `silent`
    opinions are 0.
    """
    detectors = len(mean)
    for i in range(len(learn)):
        total = 0.0
        if learnt >= unsure:
            rate = max(1.0 / (learnt - unsure + 1), slowest)
            for d in range(detectors):
                off = float(scores[d, i]) - float(mean[d])
                if math.isfinite(off):
                    if variance[d] > 0.0:
                        total += min(max(off / math.sqrt(variance[d]) / 3.0, -1.0), 1.0)
                    if learn[i]:
                        mean[d] += rate * off
                        variance[d] += rate * (off * off - variance[d])
        opinion[i] = total / detectors if learnt >= silent else 0.0
        if learn[i]:
            learnt += 1
    return learnt


@kernel
def adjust(
    rows: I64,
    by: F64,
    series: I32,
    kind: I32,
    limits: Any,
    score: F32,
    detector: U8,
    verdict: U8,
) -> None:
    """Move the scores of `rows` that rest on statistics; a violated limit stays certain, and what is told stays below the threshold.

    limits: LIMIT records, of which kind[series] is a series'.
    """
    for i in range(len(rows)):
        row = rows[i]
        if verdict[row] & TOLD or detector[row] not in (DETECTOR_SPIKE, DETECTOR_SHIFT):
            continue
        threshold = float(limits[kind[series[row]]]["threshold"])
        first = float(score[row])
        score[row] = max(first + by[i], 0.0)
        if first < threshold <= score[row]:
            verdict[row] |= SUSPECT
            detector[row] = DETECTOR_RIVER
        elif score[row] < threshold <= first:
            verdict[row] &= 0xFF ^ SUSPECT
