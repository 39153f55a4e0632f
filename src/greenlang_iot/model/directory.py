"""The registry as immutable columns: what kernels and encoders read.

A device is an index 0..n_devices−1, a series (device × metric) an index 0..n_series−1; the series of
device d are `series_start[d] : series_start[d + 1]`. All texts are UTF-8 bytes in one blob with an
offsets column (`len = off[i + 1] − off[i]`), so that kernels compare bytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.batches import F64, I32, I64, SLACK, U8

PIECE = 65_536
"""Devices looked at in one piece: a list of all offsets would be larger than the registry."""


@dataclass(slots=True, frozen=True)
class Texts:
    """A column of byte strings: `blob[off[i]:off[i + 1]]` is text i."""

    blob: U8
    off: I64  # length n + 1

    def __len__(self) -> int:
        return len(self.off) - 1

    def __getitem__(self, i: int) -> str:
        return self.blob[self.off[i] : self.off[i + 1]].tobytes().decode()

    def raw(self, i: int) -> bytes:
        return self.blob[self.off[i] : self.off[i + 1]].tobytes()

    def same_as(self, other: "Texts") -> npt.NDArray[np.bool_]:
        """Per index that both have: is it the same text?"""
        n = min(len(self), len(other))
        end = self.off[n]
        if np.array_equal(self.off[: n + 1], other.off[: n + 1]) and np.array_equal(
            self.blob[:end], other.blob[:end]
        ):
            return np.ones(n, np.bool_)
        return np.array([self.raw(i) == other.raw(i) for i in range(n)], np.bool_)


def packed(items: Sequence[bytes]) -> Texts:
    """Byte strings as a column, with SLACK behind."""
    off: I64 = np.zeros(len(items) + 1, np.int64)
    np.cumsum([len(item) for item in items], out=off[1:])
    return Texts(np.frombuffer(bytearray(b"".join(items) + bytes(SLACK)), np.uint8), off)


def writable(column: U8) -> U8:
    """Kernels are compiled once, for arrays that may be written to."""
    return column if column.flags.writeable else column.copy()


@dataclass(slots=True, frozen=True)
class Directory:
    """Snapshot of the registry. Reload makes a new one in which known series keep their index."""

    # devices
    device: Texts  # ids, unique over all orgs and sites
    org: Texts  # names, by org_of
    site: Texts  # names, by site_of
    type: Texts  # names, by type_of
    org_of: I32
    site_of: I32  # index into `site`; a (org, site) pair is one entry
    type_of: I32
    enabled: U8  # per device
    # series
    series_start: I64  # length n_devices + 1
    series_device: I32
    series_metric: I32  # index into `metric`
    series_unit: I32  # index into `unit`
    low: F64  # valid range, inclusive; −inf/+inf where open
    high: F64
    warn_low: F64  # operating range: outside it a reading is valid and suspect (detector "range")
    warn_high: F64
    step: F64  # largest physically possible change per second, in the unit; inf = no limit
    interval_ns: I64  # expected interval between readings; 0 = none, so never silent
    profile: U8  # index into PROFILES
    series_enabled: U8
    reference: I32  # series that this one is compared with (same metric, unit and site); −1 = none
    tolerance: F64  # largest difference from `reference` that is accurate, in the unit
    # names
    metric: Texts
    unit: Texts
    # units a payload may use: for unit index `unit_from[k]` → series unit `unit_to[k]`,
    # value × unit_factor[k] + unit_shift[k]
    unit_from: I32
    unit_to: I32
    unit_factor: F64
    unit_shift: F64

    @property
    def n_devices(self) -> int:
        return len(self.device)

    @property
    def n_series(self) -> int:
        return len(self.series_device)

    def find(self, ids: Iterable[str]) -> dict[str, int]:
        """Device index by id, of those that are there: one walk over all devices."""
        wanted = {name.encode(): name for name in ids}
        found: dict[str, int] = {}
        if not wanted:
            return found
        blob, off = self.device.blob.tobytes(), self.device.off
        for first in range(0, self.n_devices, PIECE):
            bounds = off[first : min(first + PIECE, self.n_devices) + 1].tolist()
            for device, (begin, end) in enumerate(pairwise(bounds), first):
                if (name := wanted.get(blob[begin:end])) is not None:
                    found[name] = device
        return found


PROFILES = ("default", "spiky", "smooth", "counter", "binary", "seasonal")
"""Detector profiles a registry may name per metric."""
