"""What is remembered per series: one fixed-stride row of nine cache lines, of which a reading touches seven.

A row of zeros is one of a series that was never heard: the kernels begin it with the first reading, so that memory
of series that never speak is never touched.

Kernels touch a series once per reading in random order, so a row is one contiguous piece; the
checkpoint stores named fields, so the layout may change.
"""

import contextlib
import mmap

import numpy as np
import numpy.typing as npt

from greenlang_iot.detect.kernels_siblings import SIBLING
from greenlang_iot.detect.kernels_tail import EXCESS, START
from greenlang_iot.model.batches import I64, U8
from greenlang_iot.model.directory import Directory

Rows = npt.NDArray[np.void]

LINE = 64
PIECE = 16_384
"""Rows that are looked at or copied at a time, where all are."""
UNTOUCHED = 4_194_304
"""Bytes of rows from which on they get memory of their own."""
HALF = 12
"""Hours of half a day."""
PIECES = 14
"""Pieces of half a week, of PIECE_HOURS each."""
PIECE_HOURS = 6
RECENT = 4
"""Identities remembered per series."""
NO_TS = -(2**63)
"""`last_ts`, `floor_ts` and `recent_ts` of a row that has none."""

ROW = np.dtype(
    [
        # -- duplicate memory (104 bytes): the RECENT identities with the newest time stamps
        ("recent_ts", np.int64, RECENT),
        ("recent_value", np.int64, RECENT),  # bits of the float64
        ("recent_seq", np.uint32, RECENT),  # folded seq, see kernels_arrival.fold_seq
        ("recent_connection", np.uint32, RECENT),  # 0 = before a restart
        (
            "floor_ts",
            np.int64,
        ),  # newest time stamp that was ever forgotten: at or before it is LATE
        # -- what came last
        ("last_ts", np.int64),  # newest event time that was learnt
        ("last_value", np.float64),
        ("heard_ns", np.int64),  # input clock (wall time without outages) of the last arrival
        # -- baseline, in the value's unit (counters: unit per second)
        ("level", np.float64),
        ("spread", np.float32),  # mean absolute deviation from the level
        ("drift", np.float32),  # how far the level lags behind, on average
        ("other_level", np.float32),  # of the readings outside, while they last: above the level
        ("other_spread", np.float32),
        # -- counts; they stop at their largest number
        ("n", np.uint16),  # readings learnt since learning (re)started
        ("seen", np.uint16),  # readings learnt, all in all
        ("run", np.uint16),  # bitwise equal values in a row
        ("outside", np.uint8),  # readings outside in a row
        ("quiet", np.uint8),  # readings before a new anomaly is news again
        # -- per detector
        ("usual_run", np.float32),  # long run that is usual here; 0 = never changed yet
        ("spike_tail", np.float32),  # mean log(|z| / 2) beyond 2: the weight of the tail
        ("shift_excess", np.float32),  # mean of a positive CUSUM: how much runs of one side weigh
        ("shift_up", np.float32),  # one-sided CUSUMs of z
        ("shift_down", np.float32),
        ("size", np.float32),  # of the residuals lately: mean |r|, mean r², mean r
        ("square", np.float32),
        ("lean", np.float32),
        ("size_mean", np.float32),  # what these three usually are
        ("size_sd", np.float32),
        ("square_mean", np.float32),
        ("square_sd", np.float32),
        ("lean_mean", np.float32),
        ("lean_sd", np.float32),
        # tails of the raw scores, of spikes and shifts and of the context (see kernels_tail)
        ("usual_start", np.float32),
        ("usual_excess", np.float32),
        ("stray_start", np.float32),
        ("stray_excess", np.float32),
        # -- seasonality (24 bytes here): residuals are taken from `anchor`, which keeps float32 exact
        ("first_hour", np.int32),  # of event time, since 1970
        ("anchor", np.float32),
        ("lowest", np.float32),  # see `highest`
        ("slow_level", np.float32),
        ("slow_error", np.float32),  # usual size of the residual from the slow level
        ("hour_error", np.float32),  # and from the hour's level
        # -- a line of what repeats, but not by the day (52 bytes, see kernels_swing); low side, high side
        ("swing_stay", np.float32, 2),  # readings that a stay there usually lasts
        ("swing_longest", np.float32, 2),  # and lately at most
        ("swing_turn", np.float32, 2),  # how far it goes there, above `anchor`
        ("swing_varies", np.float32, 2),  # mean distance from it
        ("swing_long", np.uint16, 2),  # readings that are too many; 0 = not known yet
        ("swing_far", np.float32, 2),  # and too far
        ("swing_farthest", np.float32),  # of the present stay
        ("swing_run", np.int16),  # readings of the present stay; below 0 on the low side
        ("swing_count", np.uint8, 2),  # stays, until they are many
        # (what swings leave of the line; of counters it says nothing. How much it jumps from one reading to the next)
        ("rough", np.float32),  # mean size of the newest steps
        ("roughest", np.float32),  # and the largest that this was, as far as it was believed
        ("highest", np.float32),  # that two readings in a row reached, above `anchor`, likewise
        # -- two lines of hours, of which a reading touches one (see HALF_DAY)
        ("night_level", np.float32, HALF),  # usual value by hour of the day, 0 to 11
        ("night_seen", np.uint8, HALF),  # readings of it, until they are many
        ("night_farthest", np.float32),  # largest distance from the slow level then
        ("day_level", np.float32, HALF),  # 12 to 23
        ("day_seen", np.uint8, HALF),
        ("day_farthest", np.float32),
        # -- two lines of pieces of the week, of which a reading touches one (see HALF_WEEK)
        (
            "early_week",
            np.float32,
            PIECES,
        ),  # above the usual value of the hour; weeks begin on Thursday
        ("early_error", np.float32),  # usual size of the residual from the two
        # (what the series does at one time of every day, in what the week leaves of two lines)
        ("habit_minute", np.uint16),  # of the day
        ("habit_days", np.uint8),  # on how many days it came, 0: none is known
        ("habit_peak", np.uint8),  # its score, in eighths
        ("late_week", np.float32, PIECES),
        ("late_error", np.float32),
        ("habit_hour", np.int32),  # when it came last, of event time, since 1970
    ]
)
assert ROW.itemsize == 576
assert ROW.fields is not None
assert ROW.fields["night_level"][1] == 320

HALF_DAY = np.dtype(
    {
        "names": ["level", "seen", "farthest"],
        "formats": [(np.float32, HALF), (np.uint8, HALF), np.float32],
        "offsets": [0, 4 * HALF, 5 * HALF],
        "itemsize": LINE,
    }
)
"""A row's cache line with the hours of half a day."""
HALF_WEEK = np.dtype(
    {
        "names": ["level", "error"],
        "formats": [(np.float32, PIECES), np.float32],
        "offsets": [0, 4 * PIECES],
        "itemsize": LINE,
    }
)
"""And with the pieces of half a week."""
ROW_LINES = ROW.itemsize // LINE
HOT_LINES = 5
"""Lines of a row that every reading touches; the two halves of the day follow, and those of the week."""


def halves(rows: Rows) -> Rows:
    """The same memory as cache lines: half `h` of series `s` is record ROW_LINES × s + HOT_LINES + h."""
    lines: Rows = rows.view(HALF_DAY)
    return lines


def weeks(rows: Rows) -> Rows:
    """Likewise: half `h` of the week of series `s` is record ROW_LINES × s + HOT_LINES + 2 + h."""
    lines: Rows = rows.view(HALF_WEEK)
    return lines


GAUSS_TAIL = 0.235
"""Mean log(|z| / 2) beyond 2, of Gaussian noise (0.16) and what an estimate of it may stray."""
NOISE_CUSUM = 0.5
"""Mean of the positive CUSUM (allowance 1) of independent Gaussian noise."""


def aligned(n: int, dtype: np.dtype[np.void]) -> Rows:
    """`n` zeroed rows that begin on a cache line; of many rows, memory that nothing touches until they are."""
    size = n * dtype.itemsize
    raw = _untouched(size) if size >= UNTOUCHED else np.zeros(size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size].view(dtype)


def _untouched(size: int) -> U8:
    """Zeros straight from the kernel: malloc may give memory that was used before, and calloc then writes all of it."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def unheard(n: int) -> Rows:
    """`n` rows of series that were never heard."""
    return aligned(n, ROW)


def fresh(n: int) -> Rows:
    """`n` rows that have begun (`kernels_arrival.begin`), and of which nothing else is known."""
    rows = unheard(n)
    rows[:] = _FRESH
    return rows


def begun(rows: Rows) -> npt.NDArray[np.bool_]:
    """Per row: are its fields as they are named, and not just zeros?"""
    result: npt.NDArray[np.bool_] = rows["spike_tail"] != 0.0  # it is the mean of what is above 0
    return result


def plain(rows: Rows) -> Rows:
    """A copy in which rows that were never heard look like those that have begun."""
    rows = rows.copy()
    rows[~begun(rows)] = _FRESH
    return rows


def _fresh() -> np.void:
    one = np.zeros(1, ROW)
    for name in ("recent_ts", "floor_ts", "last_ts"):
        one[name] = NO_TS
    one["spike_tail"] = GAUSS_TAIL
    one["shift_excess"] = NOISE_CUSUM
    for name in ("usual", "stray"):
        one[f"{name}_start"] = START
        one[f"{name}_excess"] = EXCESS
    row: np.void = one[0]
    return row


_FRESH = _fresh()


def strangers(n: int) -> Rows:
    """`n` SIBLING records of series that have not been compared with others."""
    return aligned(n, SIBLING)


def newest(rows: Rows) -> I64:
    """Per row: event time of the newest reading that is remembered; NO_TS where there is none."""
    at: I64 = rows["recent_ts"].max(axis=1, initial=NO_TS)
    return np.where(begun(rows), at, NO_TS)


def seen(rows: Rows) -> npt.NDArray[np.bool_]:
    """Per series: has it ever sent a reading?"""
    result = np.zeros(len(rows), np.bool_)
    for at in range(0, len(rows), PIECE):
        result[at : at + PIECE] = newest(rows[at : at + PIECE]) != NO_TS
    return result


def picked(rows: Rows, which: npt.NDArray[np.intp]) -> Rows:
    """A copy of some rows or records, by words: several times faster than `rows[which]`."""
    words = rows.view(np.uint64).reshape(len(rows), rows.itemsize // 8)
    result: Rows = np.take(words, which, axis=0).reshape(-1).view(rows.dtype)
    return result


def put(rows: Rows, which: npt.NDArray[np.intp], others: Rows) -> None:
    """rows[which] = others, by words."""
    width = rows.itemsize // 8
    words = others.view(np.uint64).reshape(len(others), width)
    rows.view(np.uint64).reshape(len(rows), width)[which] = words


def carry(rows: Rows, to: npt.NDArray[np.intp], old: Rows, source: npt.NDArray[np.intp]) -> None:
    """rows[to] = old[source], with little memory beside the two."""
    for at in range(0, len(to), PIECE):
        put(rows, to[at : at + PIECE], picked(old, source[at : at + PIECE]))


def moved(
    seen: npt.NDArray[np.bool_], old: Directory, new: Directory
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """(index in `new`, index in `old`) of every series that both have. seen: per series of `old`, is it worth finding?"""
    kept = _same_key(old, new)
    to, source = np.flatnonzero(kept), np.flatnonzero(kept)
    left = np.flatnonzero(~kept)
    left = left[seen[left]]
    if len(left):
        at = {_key(old, s): s for s in left.tolist()}
        others = np.concatenate((np.flatnonzero(~kept), np.arange(len(kept), new.n_series)))
        found = [(s, at[key]) for s in others.tolist() if (key := _key(new, s)) in at]
        pairs = np.array(found, np.intp).reshape(-1, 2)
        to, source = np.concatenate((to, pairs[:, 0])), np.concatenate((source, pairs[:, 1]))
    return to, source


def _key(d: Directory, series: int) -> tuple[bytes, bytes, bytes]:
    return (
        d.device.raw(int(d.series_device[series])),
        d.metric.raw(int(d.series_metric[series])),
        d.unit.raw(int(d.series_unit[series])),
    )


def _same_key(old: Directory, new: Directory) -> npt.NDArray[np.bool_]:
    """Per index that both have: is it still the same device and metric, in the same unit?"""
    n = min(old.n_series, new.n_series)
    same: list[npt.NDArray[np.bool_]] = []
    keys = (("device", "series_device"), ("metric", "series_metric"), ("unit", "series_unit"))
    for texts, index in keys:
        before, after = getattr(old, texts), getattr(new, texts)
        at_old, at_new = getattr(old, index)[:n], getattr(new, index)[:n]
        shared = min(len(before), len(after))
        equal = np.zeros(max(len(before), 1), bool)
        if np.array_equal(before.off[: shared + 1], after.off[: shared + 1]):
            end = before.off[shared]
            if np.array_equal(before.blob[:end], after.blob[:end]):
                equal[:shared] = True
        if not equal[:shared].all():
            equal[:shared] = [before.raw(i) == after.raw(i) for i in range(shared)]
        same.append((at_old == at_new) & equal[at_old])
    return same[0] & same[1] & same[2]
