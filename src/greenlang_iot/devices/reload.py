"""A newer registry taken into a live Directory, so that known series keep their index. Pure.

What is indexed by series (state, open alerts, encoders) goes on without being touched. A device that is
no longer registered leaves its entry vacant: disabled, under a name that no topic can hold, and used
again by a later device with as many metrics. A device that gains a metric moves to another entry,
because the series of a device are contiguous.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.batches import I32, I64
from greenlang_iot.model.directory import Directory, Texts
from greenlang_iot.model.errors import InputError
from greenlang_iot.model.kinds import kinds

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
    device = plan.device_of
    counts = np.diff(wanted.series_start)
    at = np.repeat(plan.first_series, counts) + plan.within

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
            series_start=plan.starts,
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
        first, _ = kinds(live.org_of, live.site_of)
        index = {
            (o, names[s]): s
            for o, s in zip(live.org_of[first].tolist(), live.site_of[first].tolist(), strict=True)
        }
        first, kind = kinds(wanted.org_of, wanted.site_of)
        of = []
        orgs, sites = org_of[wanted.org_of[first]].tolist(), wanted.site_of[first].tolist()
        for o, s in zip(orgs, sites, strict=True):
            found = index.get((o, new[s]))
            if found is None:
                found = index[o, new[s]] = len(names)
                names.append(new[s])
            of.append(found)
        self.texts = _texts(names)
        self.of: I32 = np.array(of, np.int32)[kind]


class _Plan:
    """Which entry each wanted device gets.

    names, starts: of all entries. device_of, first_series: per wanted device. within: per wanted series,
    its place among its device's series there. guests: entries that stay though nobody registered them.
    """

    def __init__(self, live: Directory, wanted: Directory, metric_of: I32, guest_type: str) -> None:
        self.names = _raw(live.device)
        self._ends: list[int] = [int(live.series_start[-1])]  # of what is placed behind
        self._live = live
        self.added = self.moved = self.removed = 0
        types = [i for i in range(len(live.type)) if live.type[i] == guest_type]
        is_guest = np.isin(live.type_of, types)
        guests = set(np.flatnonzero(is_guest).tolist())
        entries = dict(zip(self.names, range(len(self.names)), strict=True))
        ids = _raw(wanted.device)
        entry_of: I64 = np.fromiter((entries.get(name, -1) for name in ids), np.int64, len(ids))
        metrics: I32 = metric_of[wanted.series_metric]
        mark = VACANT.encode()
        free: dict[int, list[int]] = {}
        for i, name in enumerate(self.names):
            if name.startswith(mark):
                free.setdefault(len(self._metrics(i)), []).append(i)
        is_left = ~is_guest
        is_left[entry_of[entry_of >= 0]] = False
        for i in np.flatnonzero(is_left).tolist():
            if not self.names[i].startswith(mark):
                self.removed += 1
                self.names[i] = mark + str(i).encode()
        counts = np.diff(wanted.series_start)
        start = wanted.series_start[:-1]
        self.device_of: I64 = entry_of.copy()
        self.first_series: I64 = live.series_start[entry_of]
        self.within: I64 = np.arange(wanted.n_series) - np.repeat(start, counts)
        for w in np.flatnonzero(~self._unchanged(wanted, metrics, entry_of, is_guest)).tolist():
            first, end = int(start[w]), int(start[w] + counts[w])
            here = metrics[first:end].tolist()
            entry = int(entry_of[w])
            if entry >= 0:
                there = self._metrics(entry)
                if entry not in guests and set(here) <= set(there):
                    self.within[first:end] = [there.index(m) for m in here]
                    continue
                self.names[entry] = mark + str(entry).encode()
                guests.discard(entry)
                self.moved += 1
            else:
                self.added += 1
            self.device_of[w], self.first_series[w] = self._place(ids[w], len(here), free)
        self.guests = sorted(guests - {i for i in guests if self.names[i].startswith(mark)})
        self.vacant = sum(name.startswith(mark) for name in self.names)
        self.starts: I64 = np.concatenate((live.series_start[:-1], self._ends))

    def _unchanged(
        self, wanted: Directory, metrics: I32, entry_of: I64, is_guest: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """Per wanted device: is it registered already, with just these metrics in this order?

        Most are, and are done with here.
        """
        live = self._live
        counts = np.diff(wanted.series_start)
        known = np.flatnonzero(entry_of >= 0)
        there = entry_of[known]
        fits = (np.diff(live.series_start)[there] == counts[known]) & ~is_guest[there]
        result: npt.NDArray[np.bool_] = np.zeros(wanted.n_devices, np.bool_)
        result[known[fits]] = True
        which = np.repeat(result, counts)
        at = np.repeat(live.series_start[entry_of], counts)[which] + self.within[which]
        differs = metrics[which] != live.series_metric[at]
        result[wanted.series_device[which][differs]] = False
        return result

    def _metrics(self, entry: int) -> list[int]:
        """The metrics of a live entry."""
        first, end = self._live.series_start[entry : entry + 2].tolist()
        metrics: list[int] = self._live.series_metric[first:end].tolist()
        return metrics

    @property
    def n_devices(self) -> int:
        return len(self.names)

    @property
    def n_series(self) -> int:
        return int(self.starts[-1])

    def _place(self, name: bytes, count: int, free: dict[int, list[int]]) -> tuple[int, int]:
        """(a vacant entry with as many series, vacated by an earlier reload, or a new one; its first series)."""
        if free.get(count):
            entry = free[count].pop()
            self.names[entry] = name
            return entry, int(self._live.series_start[entry])
        self.names.append(name)
        self._ends.append(self._ends[-1] + count)
        return len(self.names) - 1, self._ends[-2]


def _with(
    column: npt.NDArray[Any], n: int, at: npt.NDArray[Any], values: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """`column` with n entries, those at `at` being `values`: a copy, or where nothing moves the values themselves."""
    if n == len(at) and np.array_equal(at, np.arange(n)):
        return values.astype(column.dtype, copy=False)
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


def _texts(names: Sequence[bytes]) -> Texts:
    off = np.zeros(len(names) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, names), np.int64, len(names)), out=off[1:])
    return Texts(np.frombuffer(bytearray(b"".join(names)), np.uint8), off)
