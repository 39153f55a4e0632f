"""`unknown_devices: accept`: devices that are not in the registry become guests of the Directory.

A guest has type "unknown" and room for a fixed number of series, so that the series of a device stay
contiguous while its metrics are learnt one by one. A series of that room that is not in use is
disabled and has the empty metric name. A learnt series has the unit of its first reading ("1" where
that had none), no range and no expected interval.

Everything is collected during a batch and published as one new Directory at its end. The columns are
copied once into arrays with room for all guests; later Directories are longer views of them. Only the
columns that learning changes are copied each time, because a Directory never changes.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from greenlang_iot.devices.names import metric_problem, name_problem, unit_text_problem
from greenlang_iot.model.batches import U8
from greenlang_iot.model.directory import Directory, Texts

GUEST_TYPE = "unknown"
_FREE = ""  # metric name of a series that a guest has not used yet
_NO_UNIT = "1"

# What a guest's series are like, apart from the columns that learning changes.
_SERIES_VALUES: dict[str, float] = {
    "low": -np.inf,
    "high": np.inf,
    "warn_low": -np.inf,
    "warn_high": np.inf,
    "step": np.inf,
    "interval_ns": 0,
    "profile": 0,
    "reference": -1,
    "tolerance": 0,
}


class _Guest(NamedTuple):
    id: bytes
    org: int
    site: int


class _Learnt(NamedTuple):
    series: int
    metric: int
    unit: int


class _Names:
    """A Texts column that grows at its end."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._new: list[bytes] = []
        self.index = {texts[i]: i for i in range(len(texts))}

    def add(self, name: str) -> int:
        """Index of `name`, which is appended if it is new."""
        found = self.index.get(name)
        return self.append(name) if found is None else found

    def append(self, name: str) -> int:
        """Append `name`, whether or not it is there already."""
        number = len(self._texts) + len(self._new)
        self._new.append(name.encode())
        self.index.setdefault(name, number)
        return number

    def texts(self) -> Texts:
        """The column with everything added so far."""
        if self._new:
            self._texts = _extended(self._texts, self._new)
            self._new = []
        return self._texts


def _extended(texts: Texts, new: list[bytes]) -> Texts:
    ends = texts.off[-1] + np.cumsum([len(name) for name in new], dtype=np.int64)
    blob: U8 = np.concatenate((texts.blob, np.frombuffer(b"".join(new), np.uint8)))
    return Texts(blob, np.concatenate((texts.off, ends)))


class Guests:
    """Adds bounded numbers of devices and metrics to a Directory."""

    def __init__(self, directory: Directory, max_devices: int, max_metrics: int) -> None:
        self._max_devices = max_devices
        self._max_metrics = max_metrics
        self.reset(directory)

    def reset(self, directory: Directory) -> None:
        """Go on with a newer Directory; the guests in it stay guests."""
        self._base = directory
        self._metric = _Names(directory.metric)
        self._unit = _Names(directory.unit)
        self._type = _Names(directory.type)
        self._org = _Names(directory.org)
        self._site = _Names(directory.site)
        places = np.unique(np.stack((directory.org_of, directory.site_of)), axis=1).T.tolist()
        self._sites = {(org, directory.site[site]): site for org, site in places}
        self._new: list[_Guest] = []
        self._learnt: list[_Learnt] = []
        self._room: dict[str, npt.NDArray[Any]] = {}
        self.n = int(np.count_nonzero(directory.type_of == self._type.index.get(GUEST_TYPE, -1)))
        unused = np.flatnonzero(
            (directory.series_metric == self._metric.index.get(_FREE, -1))
            & (directory.series_enabled == 0)
        )
        self._free: dict[int, list[int]] = {}
        for series in unused.tolist():
            self._free.setdefault(int(directory.series_device[series]), []).append(series)

    def add(self, org: str, site: str, device: str) -> int | None:
        """Index of the new guest, or None where the bound is reached or a name is not usable."""
        if self.n >= self._max_devices or any(map(name_problem, (org, site, device))):
            return None
        self._metric.add(_FREE)  # now, so that indices do not depend on how batches are cut
        self._unit.add(_NO_UNIT)
        org_index = self._org.add(org)
        site_index = self._sites.get((org_index, site))
        if site_index is None:
            site_index = self._sites[org_index, site] = self._site.append(site)
        index = self._base.n_devices + len(self._new)
        first = self._base.n_series + len(self._new) * self._max_metrics
        self._free[index] = list(range(first, first + self._max_metrics))
        self._new.append(_Guest(device.encode(), org_index, site_index))
        self.n += 1
        return index

    def can_learn(self, device: int, metric: str, unit: str | None) -> bool:
        """Whether `device` is a guest with room for another series, and the names are usable."""
        return (
            bool(self._free.get(device))
            and metric_problem(metric) is None
            and (unit is None or unit_text_problem(unit) is None)
        )

    def learn(self, device: int, metric: str, unit: str | None) -> tuple[int, int]:
        """(series, unit index) of a new metric; only after `can_learn`."""
        series = self._free[device].pop(0)
        unit_index = self._unit.add(_NO_UNIT if unit is None else unit)
        self._learnt.append(_Learnt(series, self._metric.add(metric), unit_index))
        return series, unit_index

    def publish(self) -> Directory:
        """The Directory with everything added since the last call (the same one if nothing was)."""
        if not (self._new or self._learnt):
            return self._base
        columns: dict[str, Any] = self._grown() if self._new else {}
        added = len(self._new) * self._max_metrics
        metric = _padded(self._base.series_metric, added, self._metric.add(_FREE))
        unit = _padded(self._base.series_unit, added, self._unit.add(_NO_UNIT))
        enabled = _padded(self._base.series_enabled, added, 0)
        if self._learnt:
            series, metrics, units = map(list, zip(*self._learnt, strict=True))
            metric[series], unit[series], enabled[series] = metrics, units, 1
        self._base = replace(
            self._base,
            series_metric=metric,
            series_unit=unit,
            series_enabled=enabled,
            metric=self._metric.texts(),
            unit=self._unit.texts(),
            org=self._org.texts(),
            site=self._site.texts(),
            **columns,
        )
        self._new, self._learnt = [], []
        return self._base

    def _grown(self) -> dict[str, Any]:
        """The columns with the new guests' entries."""
        base, new, width = self._base, self._new, self._max_metrics
        if not self._room:
            self._make_room()
        devices = slice(base.n_devices, base.n_devices + len(new))
        series = slice(base.n_series, base.n_series + len(new) * width)
        entries: dict[str, tuple[slice, Any]] = {
            "org_of": (devices, [guest.org for guest in new]),
            "site_of": (devices, [guest.site for guest in new]),
            "type_of": (devices, self._type.add(GUEST_TYPE)),
            "enabled": (devices, 1),
            "series_start": (
                slice(devices.start + 1, devices.stop + 1),
                series.start + width * np.arange(1, len(new) + 1),
            ),
            "series_device": (series, np.repeat(np.arange(devices.start, devices.stop), width)),
            **{name: (series, value) for name, value in _SERIES_VALUES.items()},
        }
        columns: dict[str, Any] = {}
        for name, (where, values) in entries.items():
            self._room[name][where] = values
            columns[name] = self._room[name][: where.stop]
        columns["device"] = _extended(base.device, [guest.id for guest in new])
        columns["type"] = self._type.texts()
        return columns

    def _make_room(self) -> None:
        """Copy the columns once, with room for every guest that may still come."""
        devices = self._max_devices - self.n + len(self._new)
        room = dict.fromkeys(("org_of", "site_of", "type_of", "enabled", "series_start"), devices)
        room |= dict.fromkeys(("series_device", *_SERIES_VALUES), devices * self._max_metrics)
        for name, more in room.items():
            column = getattr(self._base, name)
            self._room[name] = np.empty(len(column) + more, column.dtype)
            self._room[name][: len(column)] = column


def _padded(column: npt.NDArray[Any], added: int, value: int) -> npt.NDArray[Any]:
    """A copy of `column` with `added` more entries."""
    return np.concatenate((column, np.full(added, value, column.dtype)))
