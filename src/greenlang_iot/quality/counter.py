"""What a shard knows about the quality of its devices: a bounded record per device, in slots of time.

A window is six slots. Everything counts in the slot in which it arrived, but a reading is *received* in
the slot in which it was measured, so what comes late still completes its slot while the window lasts. Of
the newest slot much may still be on its way: what is due and received is asked of the five before it.
Only slots that are over belong to a window; the first is the first that began after the start.

Memory: 264 bytes per device.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.batches import F64, I32, I64, ReadingBatch, Reject, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.reasons import Reason
from greenlang_iot.quality.kernels import count_batch
from greenlang_iot.quality.record import (
    FIELDS,
    INCONSISTENT,
    LEAST_LAG,
    NEVER,
    NO_LAG,
    RECEIVED,
    REJECTED,
    RING,
    SLOTS,
    Window,
    slot_ns,
)
from greenlang_iot.settings.model import QualitySettings

REFERENCE_INTERVALS = 2
"""Intervals of a reference sensor that its reading and the one compared with it may lie apart."""
REFERENCE_AGE_NS = 300_000_000_000
"""The same where the registry gives the reference no interval."""
_PIECE = 65_536
"""Devices summed up at a time: a copy of their slots is all the memory that it takes."""
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
        self._records = _fresh(directory.n_devices)
        self._newest = np.full(directory.n_devices, np.iinfo(np.int64).min, np.int64)
        self._due = due(directory)
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
                self._records,
                self._newest,
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

        A clock that goes back changes nothing until it is where it was.
        """
        slot = now_ns // self._slot_ns
        if slot <= self._slot:
            return None
        for number in range(max(self._slot + 2, slot + 2 - RING), slot + 2):
            self._by_slot[:, number % RING] = _EMPTY
        self._slot = slot
        return self._window() if slot > self._begun else None

    def grow(self, directory: Directory) -> None:
        """Go on with a newer Directory; devices that keep index and name keep their counts."""
        old = self._directory
        kept = min(old.n_devices, directory.n_devices)
        same = old.device.same_as(directory.device)
        if directory.n_devices != old.n_devices or not same.all():
            records = _fresh(directory.n_devices)
            newest = np.full(directory.n_devices, np.iinfo(np.int64).min, np.int64)
            wide, before = (r.reshape(-1, RING * FIELDS) for r in (records, self._records))
            wide[:kept][same] = before[:kept][same]
            newest[:kept][same] = self._newest[:kept][same]
            self._records, self._newest = records, newest
        self._directory = directory
        self._due = due(directory)
        self._references = _References(directory)
        self._by_name = None

    @property
    def _first(self) -> int:
        """Oldest slot of the window that readings may still complete."""
        return max(self._slot - SLOTS, self._begun)

    @property
    def _by_slot(self) -> npt.NDArray[np.int32]:
        return self._records.reshape(-1, RING, FIELDS)

    def _window(self) -> Window:
        slots = [number % RING for number in range(self._first, self._slot)]
        records = np.empty((len(self._by_slot), FIELDS), np.int64)
        for at in range(0, len(records), _PIECE):
            chosen, sums = self._by_slot[at : at + _PIECE, slots], records[at : at + _PIECE]
            chosen.sum(axis=1, dtype=np.int64, out=sums)
            sums[:, LEAST_LAG] = chosen[:, :, LEAST_LAG].min(axis=1)
            sums[:, RECEIVED] -= chosen[:, -1, RECEIVED]
        from_ns, to_ns = self._first * self._slot_ns, self._slot * self._slot_ns
        due_seconds = (to_ns - self._slot_ns - from_ns) / 1e9
        return Window(from_ns, to_ns, self._due * due_seconds, records)

    def _reject(self, rejects: Sequence[Reject]) -> None:
        """Rejected readings, and a whole message as one, of devices that are known."""
        here = self._by_slot[:, self._slot % RING]
        for reject in rejects:
            device = self._device(reject)
            if device >= 0:
                here[device, REJECTED] += max(reject.readings, 1)
                here[device, INCONSISTENT] += sum(why in MISTYPED for _, why in reject.paths)

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


_EMPTY: I32 = np.zeros(FIELDS, np.int32)
_EMPTY[LEAST_LAG] = NO_LAG


def due(directory: Directory) -> F64:
    """Readings a second that the registry expects of each device."""
    on = (directory.interval_ns > 0) & (directory.series_enabled != 0)
    on &= directory.enabled[directory.series_device] != 0
    rate = np.zeros(directory.n_series)
    rate[on] = 1e9 / directory.interval_ns[on]
    return np.bincount(directory.series_device, rate, directory.n_devices).astype(np.float64)


def _fresh(devices: int) -> I32:
    """Records that begin on a cache line."""
    size = devices * RING * FIELDS
    raw: I32 = np.empty(size + 16, np.int32)
    start = -raw.ctypes.data % 64 // 4
    records = raw[start : start + size]
    records.reshape(-1, FIELDS)[:] = _EMPTY
    return records
