"""What a shard knows about the quality of its devices: a bounded record per device, in slots of time.

A window is six slots. Everything counts in the slot in which it arrived, but a reading is *received* in
the slot in which it was measured, so what comes late still completes its slot while the window lasts. Of
the newest slot much may still be on its way: what is due and received is asked of the five before it.
Only slots that are over belong to a window; the first is the first that began after the start. For a
device that a reload adds, or of which it changes what is due, that is the first that began after the reload.

Memory: 80 bytes per device, and for each of the six slots that are over 4 and one, two or four for each
count, as its largest needs: some 60 for a device that sends four metrics every ten seconds.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.batches import F64, I32, I64, ReadingBatch, Reject, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.reasons import Reason
from greenlang_iot.quality.kernels import count_batch
from greenlang_iot.quality.record import (
    ACCURATE,
    ARRIVED,
    FIELDS,
    INCONSISTENT,
    JUDGED,
    LEAST_LAG,
    NEVER,
    NEWEST,
    NO_LAG,
    NOW_ACCURATE,
    NOW_ARRIVED,
    NOW_INCONSISTENT,
    NOW_JUDGED,
    NOW_LEAST_LAG,
    NOW_ON_TIME,
    ON_TIME,
    RECEIVED,
    REJECTED,
    RING,
    ROW,
    SLOTS,
    Window,
    slot_ns,
)
from greenlang_iot.settings.model import QualitySettings

REFERENCE_INTERVALS = 2
"""Intervals of a reference sensor that its reading and the one compared with it may lie apart."""
REFERENCE_AGE_NS = 300_000_000_000
"""The same where the registry gives the reference no interval."""
_NOW = {
    ARRIVED: NOW_ARRIVED,
    ON_TIME: NOW_ON_TIME,
    INCONSISTENT: NOW_INCONSISTENT,
    JUDGED: NOW_JUDGED,
    ACCURATE: NOW_ACCURATE,
}
"""A window's fields, where they are counted in a row."""
Column = npt.NDArray[np.integer]
Some = TypeVar("Some", bound=npt.NDArray[np.number])
MISTYPED = frozenset({Reason.UNKNOWN_UNIT, Reason.NOT_A_NUMBER, Reason.BAD_SHAPE})
"""Rejects that are inconsistent, too: of another unit or type than agreed."""


class QualityCounter:
    """Counts batches; `close` gives a window whenever a slot is over."""

    def __init__(self, directory: Directory, settings: QualitySettings, now_ns: int) -> None:
        self._settings = settings
        self._slot_ns = slot_ns(settings)
        self._slot = now_ns // self._slot_ns
        self._begun = self._slot + 1
        self._directory = directory
        self._by_name: dict[str, int] | None = None
        self._rows = _fresh(directory.n_devices)
        self._rejected: I32 = np.zeros(directory.n_devices, np.int32)  # in the present slot
        self._over: dict[int, dict[int, Column]] = {}  # by slot, by field; no column is all zeros
        self._due = due(directory)
        self._since: I32 = np.zeros(
            directory.n_devices, np.int32
        )  # due from this slot on, after _begun
        self._references = _References(directory)

    def count(self, readings: ReadingBatch, scores: ScoreBatch, rejects: Sequence[Reject]) -> None:
        """Add a batch; its flags must be complete."""
        if readings.n:
            count_batch(
                readings.n,
                readings.series,
                readings.ts_ns,
                readings.value,
                readings.flags,
                scores.verdict,
                scores.expected,
                scores.band,
                self._directory.series_device,
                readings.received_ns,
                int(self._settings.lag * 1e9),
                self._slot_ns,
                self._slot,
                self._first,
                self._rows.reshape(-1),
                self._rows.reshape(-1).view(np.int64),
                self._references.role,
                self._directory.tolerance,
                self._references.value,
                self._references.ts_ns,
                self._references.age_ns,
            )
        if rejects:
            self._reject(rejects)

    def close(self, now_ns: int) -> Window | None:
        """Go on to the slot of `now_ns`; the window that ends with it, when a slot is over.

        A clock that goes back a little changes nothing until it is where it was; by more than a slot,
        and the window begins anew: it was wrong before.
        """
        slot = now_ns // self._slot_ns
        if slot < self._slot - 1:
            self._begin(slot)
        if slot <= self._slot:
            return None
        if self._slot >= self._begun:
            self._over[self._slot] = self._now()
        self._rows[:, RING : RING + len(_NOW)] = 0
        self._rows[:, NOW_LEAST_LAG] = NO_LAG
        self._rejected[:] = 0
        for number in range(max(self._slot + 2, slot + 2 - RING), slot + 2):
            self._rows[:, number % RING] = 0
        for number in [number for number in self._over if number < slot - SLOTS]:
            del self._over[number]
        self._slot = slot
        return self._window() if slot > self._begun else None

    def grow(self, directory: Directory) -> None:
        """Go on with a newer Directory; devices keep their counts by name, wherever they are now.

        Of what was due before nothing is known of a device that is new, or has other intervals.
        """
        was = _places(self._directory, directory)
        kept = was >= 0
        before = was[kept]
        wanted = due(directory)

        def taken_over(new: Some, old: Some) -> Some:
            new[kept] = old[before]
            return new

        n = directory.n_devices
        if not np.array_equal(was, np.arange(self._directory.n_devices)):
            self._rows = taken_over(_fresh(n), self._rows)
            self._rejected = taken_over(np.zeros(n, np.int32), self._rejected)
            for over in self._over.values():
                for name, column in over.items():
                    empty = NO_LAG if name == LEAST_LAG else 0
                    over[name] = taken_over(np.full(n, empty, column.dtype), column)
        next_slot = max(self._slot + 1 - self._begun, 0)
        since = taken_over(np.full(n, next_slot, np.int32), self._since)
        since[wanted != taken_over(np.full(n, -1.0), self._due)] = next_slot
        self._since = since
        self._directory = directory
        self._due = wanted
        self._references = _References(directory)
        self._by_name = None

    def _begin(self, slot: int) -> None:
        """Forget all but the newest reading of each device, whose clock is another one."""
        newest = self._rows.view(np.int64)[:, NEWEST].copy()
        self._rows = _fresh(len(self._rows))
        self._rows.view(np.int64)[:, NEWEST] = newest
        self._rejected[:] = 0
        self._since[:] = 0
        self._over = {}
        self._slot, self._begun = slot, slot + 1

    @property
    def _first(self) -> int:
        """Oldest slot of the window that readings may still complete."""
        return max(self._slot - SLOTS, self._begun)

    def _now(self) -> dict[int, Column]:
        """The counts of the present slot, each as narrow as its largest allows."""
        columns = {field: self._rows[:, place] for field, place in _NOW.items()}
        columns[REJECTED] = self._rejected
        found = {field: _narrow(column) for field, column in columns.items() if column.any()}
        found[LEAST_LAG] = self._rows[:, NOW_LEAST_LAG].copy()
        return found

    def _window(self) -> Window:
        records = np.zeros((len(self._rows), FIELDS), np.int64)
        records[:, LEAST_LAG] = NO_LAG
        for number in range(self._first, self._slot):
            over = dict(self._over.get(number, {}))
            if number < self._slot - 1:
                received = self._rows[:, number % RING]
                over[RECEIVED] = np.where(self._since <= number - self._begun, received, 0)
            for field, column in over.items():
                sums = records[:, field]
                (np.minimum if field == LEAST_LAG else np.add)(sums, column, out=sums)
        from_ns, to_ns = self._first * self._slot_ns, self._slot * self._slot_ns
        first = np.maximum(self._first - self._begun, self._since)
        slots = np.maximum(self._slot - 1 - self._begun - first, 0)
        return Window(from_ns, to_ns, self._due * (slots * (self._slot_ns / 1e9)), records)

    def _reject(self, rejects: Sequence[Reject]) -> None:
        """Rejected readings, and a whole message as one, of devices that are known."""
        for reject in rejects:
            device = self._device(reject)
            if device >= 0:
                self._rejected[device] += max(reject.readings, 1)
                mistyped = sum(why in MISTYPED for _, why in reject.paths)
                self._rows[device, NOW_INCONSISTENT] += mistyped

    def _device(self, reject: Reject) -> int:
        """Index of a reject's device; −1 where it is not known."""
        if reject.series and reject.series[0] >= 0:
            return int(self._directory.series_device[reject.series[0]])
        if self._by_name is None:
            texts = self._directory.device
            self._by_name = {texts[d]: d for d in range(self._directory.n_devices)}
        return self._by_name.get(reject.device, -1)


class _References:
    """What the reference sensors of a registry said last, as `count_batch` takes it.

    Empty columns where there are none. A newer Directory begins anew: the next reading of a reference
    is enough.
    """

    def __init__(self, directory: Directory) -> None:
        compared = np.flatnonzero(directory.reference >= 0)
        series, of = np.unique(directory.reference[compared], return_inverse=True)
        self.role: I32 = np.zeros(directory.n_series if len(series) else 0, np.int32)
        if len(series):
            self.role[series] = -1 - np.arange(len(series))
            self.role[compared] = 1 + of
        self.value: F64 = np.zeros(len(series))
        self.ts_ns: I64 = np.full(len(series), NEVER, np.int64)
        interval = directory.interval_ns[series]
        self.age_ns: I64 = np.where(interval > 0, REFERENCE_INTERVALS * interval, REFERENCE_AGE_NS)


def _places(old: Directory, new: Directory) -> I64:
    """Per device of `new` its index in `old`, by name; −1 where it was not there."""
    places: I64 = np.full(new.n_devices, -1, np.int64)
    same = np.flatnonzero(old.device.same_as(new.device))
    places[same] = same
    gone = np.ones(old.n_devices, np.bool_)
    gone[same] = False
    index = {old.device.raw(i): i for i in np.flatnonzero(gone).tolist()}
    for i in np.flatnonzero(places < 0).tolist():
        places[i] = index.get(new.device.raw(i), -1)
    return places


def _narrow(column: Column) -> Column:
    """A copy, of whole numbers of one, two or four bytes."""
    return column.astype(np.min_scalar_type(int(column.max())))


def due(directory: Directory) -> F64:
    """Readings a second that the registry expects of each device."""
    on = (directory.interval_ns > 0) & (directory.series_enabled != 0)
    on &= directory.enabled[directory.series_device] != 0
    rate = np.zeros(directory.n_series)
    rate[on] = 1e9 / directory.interval_ns[on]
    return np.bincount(directory.series_device, rate, directory.n_devices).astype(np.float64)


def _fresh(devices: int) -> I32:
    """Rows that begin on a cache line: int32[devices, ROW]."""
    size = devices * ROW
    raw: I32 = np.zeros(size + 16, np.int32)
    start = -raw.ctypes.data % 64 // 4
    rows = raw[start : start + size].reshape(devices, ROW)
    rows[:, NOW_LEAST_LAG] = NO_LAG
    rows.view(np.int64)[:, NEWEST] = np.iinfo(np.int64).min
    return rows
