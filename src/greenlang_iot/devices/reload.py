"""A newer registry taken into a live Directory, so that known series keep their index. Pure.

What is indexed by series (state, open alerts, encoders) goes on without being touched. A device that is
no longer registered leaves its entry vacant: disabled, under a name that no topic can hold, and used
again by a later device with as many metrics. A device that gains a metric moves to another entry,
because the series of a device are contiguous.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from greenlang_iot.devices.registry import texts
from greenlang_iot.model.batches import I32, I64
from greenlang_iot.model.directory import Directory, Texts
from greenlang_iot.model.errors import InputError

VACANT = "#"
"""First character of a vacant entry's name: no topic that is published to can hold it."""
VACANT_ALLOWED = 10_000
"""Vacant entries beyond which (and beyond the registry's own size) a restart is asked for."""

_BOUNDS = (
    "low",
    "high",
    "warn_low",
    "warn_high",
    "step",
    "interval_ns",
    "profile",
    "tolerance",
)


@dataclass(slots=True, frozen=True)
class Reloaded:
    """directory: the newer one. entries: per registered device, its index there.

    added, removed, moved: devices (moved: known ones at a new entry).
    """

    directory: Directory
    entries: I64
    added: int
    removed: int
    moved: int


def reloaded(live: Directory, wanted: Directory, guest_type: str = "") -> Reloaded:
    """`live` with everything as `wanted` says. Devices of `guest_type` that `wanted` does not have stay.

    Raises InputError where too many entries would be vacant.
    """
    metric, unit, org, type_ = (
        _Merged(getattr(live, name), getattr(wanted, name))
        for name in ("metric", "unit", "org", "type")
    )
    site = _Sites(live, wanted, org.index_of)
    plan = _Plan(live, wanted, metric.index_of, guest_type)
    if plan.vacant > max(VACANT_ALLOWED, wanted.n_devices):
        raise InputError(
            f"{plan.vacant:,} entries of devices that were removed would stay in memory: restart the "
            "gateway to give them up"
        )
    device = np.array(plan.device_of, np.int64)
    counts = np.diff(wanted.series_start)
    first = np.array(plan.first_series, np.int64)
    at = np.repeat(first, counts) + plan.within

    def per_device(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return _with(getattr(live, name), plan.n_devices, device, values)

    def per_series(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return _with(getattr(live, name), plan.n_series, at, values)

    managed = np.ones(plan.n_devices, bool)
    managed[plan.guests] = False
    enabled = per_device("enabled", wanted.enabled)
    vacated = managed.copy()
    vacated[device] = False
    enabled[vacated] = 0
    series_device = _with(
        live.series_device, plan.n_series, at, np.repeat(device, counts).astype(np.int32)
    )
    series_enabled = _with(live.series_enabled, plan.n_series, at, wanted.series_enabled)
    dropped = managed[series_device]
    dropped[at] = False
    series_enabled[dropped] = 0
    type_of = per_device("type_of", type_.index_of[wanted.type_of])
    type_of[vacated] = 0  # no guest any more
    return Reloaded(
        replace(
            live,
            device=_texts(plan.names),
            org=org.texts,
            site=site.texts,
            type=type_.texts,
            metric=metric.texts,
            unit=unit.texts,
            org_of=per_device("org_of", org.index_of[wanted.org_of]),
            site_of=per_device("site_of", site.of),
            type_of=type_of,
            enabled=enabled,
            series_start=np.array(plan.starts, np.int64),
            series_device=series_device,
            series_metric=per_series("series_metric", metric.index_of[wanted.series_metric]),
            series_unit=per_series("series_unit", unit.index_of[wanted.series_unit]),
            series_enabled=series_enabled,
            reference=per_series(
                "reference", np.where(wanted.reference < 0, -1, np.append(at, -1)[wanted.reference])
            ),
            **{name: per_series(name, getattr(wanted, name)) for name in _BOUNDS},
            **_conversions(live, wanted, unit.index_of),
        ),
        device,
        plan.added,
        plan.removed,
        plan.moved,
    )


class _Merged:
    """Names of both; those of the first keep their index. index_of: second's index → merged index."""

    def __init__(self, first: Texts, second: Texts) -> None:
        names = _raw(first)
        index: dict[bytes, int] = {}
        for i, name in enumerate(names):
            index.setdefault(name, i)
        for name in _raw(second):
            if name not in index:
                index[name] = len(names)
                names.append(name)
        self.texts = _texts(names)
        self.index_of: I32 = np.array([index[name] for name in _raw(second)], np.int32)


class _Sites:
    """Sites are pairs of org and name. of: per wanted device, its index among the merged sites."""

    def __init__(self, live: Directory, wanted: Directory, org_of: I32) -> None:
        names, new = _raw(live.site), _raw(wanted.site)
        index = {
            (o, names[s]): s
            for o, s in zip(live.org_of.tolist(), live.site_of.tolist(), strict=True)
        }
        of = []
        for o, s in zip(org_of[wanted.org_of].tolist(), wanted.site_of.tolist(), strict=True):
            found = index.get((o, new[s]))
            if found is None:
                found = index[o, new[s]] = len(names)
                names.append(new[s])
            of.append(found)
        self.texts = _texts(names)
        self.of: I32 = np.array(of, np.int32)


class _Plan:
    """Which entry each wanted device gets.

    names, starts: of all entries. device_of, first_series: per wanted device. within: per wanted series,
    its place among its device's series there. guests: entries that stay though nobody registered them.
    """

    def __init__(self, live: Directory, wanted: Directory, metric_of: I32, guest_type: str) -> None:
        self.names = _raw(live.device)
        self.starts = live.series_start.tolist()
        self.device_of: list[int] = []
        self.first_series: list[int] = []
        self.added = self.moved = 0
        guests = {i for i, t in enumerate(live.type_of.tolist()) if live.type[t] == guest_type}
        entries = {name: i for i, name in enumerate(self.names)}
        live_metrics = live.series_metric.tolist()
        wanted_metrics = metric_of[wanted.series_metric].tolist()
        wanted_starts = wanted.series_start.tolist()
        mark = VACANT.encode()
        free: dict[int, list[int]] = {}
        for i, name in enumerate(self.names):
            if name.startswith(mark):
                free.setdefault(self.starts[i + 1] - self.starts[i], []).append(i)
        ids = _raw(wanted.device)
        registered = set(ids)
        self.removed = 0
        for i, name in enumerate(list(self.names)):
            if name not in registered and i not in guests and not name.startswith(mark):
                self.removed += 1
                self.names[i] = mark + str(i).encode()
        within: list[int] = []
        for w, name in enumerate(ids):
            here = wanted_metrics[wanted_starts[w] : wanted_starts[w + 1]]
            entry = entries.get(name)
            if entry is not None:
                there = live_metrics[self.starts[entry] : self.starts[entry + 1]]
                if entry not in guests and set(here) <= set(there):
                    same = here == there
                    within += range(len(here)) if same else [there.index(m) for m in here]
                    self.device_of.append(entry)
                    self.first_series.append(self.starts[entry])
                    continue
                self.names[entry] = mark + str(entry).encode()
                guests.discard(entry)
                self.moved += 1
            else:
                self.added += 1
            entry = self._place(name, len(here), free)
            within += range(len(here))
            self.device_of.append(entry)
            self.first_series.append(self.starts[entry])
        self.within: I64 = np.array(within, np.int64)
        self.guests = sorted(guests - {i for i in guests if self.names[i].startswith(mark)})
        self.vacant = sum(name.startswith(mark) for name in self.names)

    @property
    def n_devices(self) -> int:
        return len(self.names)

    @property
    def n_series(self) -> int:
        return int(self.starts[-1])

    def _place(self, name: bytes, count: int, free: dict[int, list[int]]) -> int:
        """A vacant entry with as many series (vacated by an earlier reload), or a new one."""
        if free.get(count):
            entry = free[count].pop()
            self.names[entry] = name
            return entry
        self.names.append(name)
        self.starts.append(self.starts[-1] + count)
        return len(self.names) - 1


def _with(
    column: npt.NDArray[Any], n: int, at: npt.NDArray[Any], values: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """A copy of `column` with n entries, those at `at` being `values`."""
    result = np.zeros(n, column.dtype)
    result[: len(column)] = column
    result[at] = values
    return result


def _conversions(live: Directory, wanted: Directory, unit_of: I32) -> dict[str, Any]:
    found: dict[tuple[int, int], tuple[float, float]] = {}
    for d, index in ((live, np.arange(len(live.unit), dtype=np.int32)), (wanted, unit_of)):
        sources, targets = index[d.unit_from].tolist(), index[d.unit_to].tolist()
        factors = zip(d.unit_factor.tolist(), d.unit_shift.tolist(), strict=True)
        found.update(zip(zip(sources, targets, strict=True), factors, strict=True))
    return {
        "unit_from": np.array([source for source, _ in found], np.int32),
        "unit_to": np.array([target for _, target in found], np.int32),
        "unit_factor": np.array([factor for factor, _ in found.values()], np.float64),
        "unit_shift": np.array([shift for _, shift in found.values()], np.float64),
    }


def _raw(column: Texts) -> list[bytes]:
    blob = column.blob.tobytes()
    return [blob[a:b] for a, b in pairwise(column.off.tolist())]


def _texts(names: Iterable[bytes]) -> Texts:
    return texts(name.decode() for name in names)
