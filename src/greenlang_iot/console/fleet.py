"""The fleet as the console shows it: searched and paged here, so that a page costs the same for 20
devices and for 100,000. Who is silent comes from the shards, for all devices at once, as bits.
"""

import asyncio
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from greenlang_iot.console.questions import (
    Devices,
    Guest,
    Named,
    Presence,
    Present,
    SeriesNow,
    Shards,
    newest,
)
from greenlang_iot.model.batches import I64
from greenlang_iot.model.directory import Directory, Texts

Bools = npt.NDArray[np.bool_]

FRESH_FOR: Final = 2.0
"""Seconds for which the answer to "who is silent" is used again."""
STATES: Final = ("ok", "silent", "never", "disabled", "unknown")
"""ok: heard, and not silent. never: nothing since what the gateway remembers. unknown: no shard that answers
has heard it, and not all answer."""
UNREGISTERED: Final = -1


@dataclass(slots=True, frozen=True)
class Wanted:
    """What a list of devices is narrowed to; "" = all. state: one of STATES."""

    text: str = ""
    site: str = ""
    type: str = ""
    state: str = ""


@dataclass(slots=True)
class _Index:
    """The registry, ordered by id. Rows are devices in that order; the last ones are guests."""

    registry: Directory
    guests: tuple[Guest, ...]
    ids: list[str]
    lower: list[str]
    entry: I64  # per row: index in the registry, or UNREGISTERED
    place: I64  # per row: index into places
    type: I64  # per row: index into types
    places: list[str]  # org/site
    types: list[str]

    def row(self, name: str) -> int | None:
        """The row of a device."""
        row = bisect_left(self.ids, name)
        return row if row < len(self.ids) and self.ids[row] == name else None


class Fleet:
    """registry: the one that holds now; a reload replaces it. count: how many shards there are."""

    def __init__(
        self, registry: Callable[[], Directory], shards: Shards, count: Callable[[], int]
    ) -> None:
        self._registry = registry
        self._shards = shards
        self._count = count
        self._built: _Index | None = None  # when somebody looks: it holds every name as a text
        self._looked = -FRESH_FOR
        self._answering = 0
        self._lock = asyncio.Lock()

    async def refresh(self) -> None:
        """Ask the shards who is there, unless that was just done."""
        async with self._lock:
            if (
                time.monotonic() - self._looked < FRESH_FOR
                and self._built is not None
                and self._built.registry is self._registry()
            ):
                return
            answers = [
                a for a in (await self._shards.look(Presence())).values() if isinstance(a, Present)
            ]
            registry = self._registry()
            guests = _merged_guests(answers)
            built = self._built
            if built is None or built.registry is not registry or built.guests != guests:
                self._built = await asyncio.to_thread(_index, registry, guests)
            self._take(answers)
            self._answering = len(answers)
            self._looked = time.monotonic()

    @property
    def _index(self) -> _Index:
        if self._built is None:
            self._built = _index(self._registry(), ())
            self._take([])
        return self._built

    def _take(self, answers: Sequence[Present]) -> None:
        index, n = self._index, self._index.registry.n_devices
        # one for "not registered" at the end, which UNREGISTERED points at
        heard, silent = np.zeros(n + 1, np.bool_), np.full(n + 1, bool(answers), np.bool_)
        # of another length: that shard has another registry, in a moment
        fitting = [answer for answer in answers if len(answer.heard) == (n + 7) // 8]
        for answer in fitting:
            heard[:n] |= _bits(answer.heard, n)
            silent[:n] &= _bits(answer.silent, n)
        heard[n], silent[n] = True, False  # a guest is there because it spoke, and has no interval
        enabled = np.append(index.registry.enabled != 0, True)
        unheard = STATES.index("never" if len(fitting) >= self._count() else "unknown")
        state = np.select([~enabled, ~heard, silent], [3, unheard, 1], default=0)
        self._state: I64 = state[index.entry]  # per row, its index in STATES

    # ---- lists --------------------------------------------------------------------------------------

    async def search(self, wanted: Wanted, limit: int, cursor: str) -> dict[str, Any]:
        """One page after the device `cursor`, in the order of ids, with how each device stands."""
        await self.refresh()
        rows = self._matching(wanted)
        total = len(rows)
        if cursor:
            rows = rows[np.searchsorted(rows, self._after(cursor)) :]
        page = [self._named(row) for row in rows[:limit].tolist()]
        now = await self._now(page)
        # meanwhile a device may have come or gone: rows are other ones then
        found = [(self._index.row(name), name) for _, name in page]
        return {
            "devices": [
                self._device(row, now.get(name, [])) for row, name in found if row is not None
            ],
            "next": page[-1][1] if len(rows) > limit else None,
            "total": total,
        }

    async def sites(self) -> dict[str, Any]:
        """Every site with its devices by state."""
        await self.refresh()
        index = self._index
        n = len(index.places)
        counts = np.zeros((len(STATES), n), np.int64)
        np.add.at(counts, (self._state, index.place), 1)
        sites = []
        for place in np.argsort(np.array(index.places)).tolist():
            org, _, site = index.places[place].partition("/")
            by_state = {state: int(counts[s, place]) for s, state in enumerate(STATES)}
            if sum(by_state.values()):
                sites.append(
                    {"org": org, "site": site, "devices": sum(by_state.values()), **by_state}
                )
        return {"sites": sites, "types": sorted(set(index.types)), "answering": self._answering}

    def counts(self) -> dict[str, int] | None:
        """Devices by state, as the shards said last; None: nobody asked yet, or none answers."""
        if self._answering == 0:
            return None
        found = np.bincount(self._state, minlength=len(STATES)).tolist()
        return dict(zip(STATES, found, strict=True))

    # ---- one device -------------------------------------------------------------------------------

    async def device(self, name: str) -> dict[str, Any] | None:
        """Everything that is known of a device; None: there is none of that id."""
        await self.refresh()
        named = self.named(name)
        if named is None:
            return None
        now = await self._now([named])
        row = self._index.row(name)  # it may be another one by now
        return None if row is None else self._device(row, now.get(name, []), self._limits(row))

    def named(self, name: str) -> Named | None:
        """How the shards know the device."""
        row = self._index.row(name)
        return None if row is None else self._named(row)

    async def _now(self, devices: list[Named]) -> dict[str, list[SeriesNow]]:
        if not devices:
            return {}
        answers = await self._shards.look(Devices(tuple(devices)))
        return newest([a for a in answers.values() if not isinstance(a, Present)])

    def _named(self, row: int) -> Named:
        return int(self._index.entry[row]), self._index.ids[row]

    def _device(
        self, row: int, series: list[SeriesNow], limits: dict[str, dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        index = self._index
        org, _, site = index.places[int(index.place[row])].partition("/")
        quiet = [s.quiet_ns for s in series if s.quiet_ns is not None]
        times = [s.last_ts for s in series if s.last_ts is not None]
        units = self._units(row)
        return {
            "id": index.ids[row],
            "org": org,
            "site": site,
            "type": index.types[int(index.type[row])],
            "registered": int(index.entry[row]) != UNREGISTERED,
            "state": STATES[int(self._state[row])],
            "quiet": min(quiet) / 1e9 if quiet else None,
            "last_ts": max(times) / 1e9 if times else None,
            "series": [
                {**as_json(s), "unit": units.get(s.metric, ""), **(limits or {}).get(s.metric, {})}
                for s in series
            ],
        }

    def _units(self, row: int) -> dict[str, str]:
        d, entry = self._index.registry, int(self._index.entry[row])
        if entry == UNREGISTERED:
            return {}
        return {
            d.metric[int(d.series_metric[s])]: d.unit[int(d.series_unit[s])]
            for s in range(int(d.series_start[entry]), int(d.series_start[entry + 1]))
        }

    def _limits(self, row: int) -> dict[str, dict[str, Any]]:
        """By metric, what the registry says of its values."""
        d, entry = self._index.registry, int(self._index.entry[row])
        if entry == UNREGISTERED:
            return {}
        return {
            d.metric[int(d.series_metric[s])]: {
                "range": [_finite(d.low[s]), _finite(d.high[s])],
                "warn": [_finite(d.warn_low[s]), _finite(d.warn_high[s])],
                "interval": int(d.interval_ns[s]) / 1e9 or None,
            }
            for s in range(int(d.series_start[entry]), int(d.series_start[entry + 1]))
        }

    # ---- rows ---------------------------------------------------------------------------------------

    def _matching(self, wanted: Wanted) -> I64:
        index = self._index
        mask = np.ones(len(index.ids), np.bool_)
        if wanted.state:
            mask &= self._state == STATES.index(wanted.state)
        if wanted.site:
            mask &= _among(
                index.place,
                index.places,
                lambda name: wanted.site in (name, name.partition("/")[2]),
            )
        if wanted.type:
            mask &= _among(index.type, index.types, lambda name: name == wanted.type)
        for word in wanted.text.lower().split():
            mask &= self._holds(word)
        rows: I64 = np.flatnonzero(mask)
        return rows

    def _holds(self, word: str) -> Bools:
        """Per row: is the word in its id, org or site?"""
        index = self._index
        named = np.fromiter((word in name for name in index.lower), np.bool_, len(index.lower))
        found: Bools = named | _among(index.place, index.places, lambda name: word in name.lower())
        return found

    def _after(self, cursor: str) -> int:
        """Row of the first device after `cursor` in the order of ids."""
        return bisect_right(self._index.ids, cursor)


def as_json(series: SeriesNow) -> dict[str, Any]:
    """Plain JSON types; times in seconds."""
    return {
        "metric": series.metric,
        "ts": None if series.last_ts is None else series.last_ts / 1e9,
        "value": series.last_value,
        "quiet": None if series.quiet_ns is None else series.quiet_ns / 1e9,
        "learning": series.learning,
        "expected": series.expected,
        "band": series.band,
    }


def _index(registry: Directory, guests: tuple[Guest, ...]) -> _Index:
    orgs, sites, types = _texts(registry.org), _texts(registry.site), _texts(registry.type)
    ids = [*_texts(registry.device), *(guest[2] for guest in guests)]
    pairs = [
        (orgs[o], sites[s])
        for o, s in zip(registry.org_of.tolist(), registry.site_of.tolist(), strict=True)
    ]
    pairs += [(org, site) for org, site, _ in guests]
    names = list(dict.fromkeys(f"{org}/{site}" for org, site in pairs))
    number = {name: i for i, name in enumerate(names)}
    kinds = [types[t] for t in registry.type_of.tolist()] + ["unknown"] * len(guests)
    kind_names = list(dict.fromkeys(kinds))
    kind_number = {name: i for i, name in enumerate(kind_names)}
    order = sorted(range(len(ids)), key=ids.__getitem__)
    n = registry.n_devices
    return _Index(
        registry,
        guests,
        [ids[i] for i in order],
        [_lower(ids[i]) for i in order],
        np.array([i if i < n else UNREGISTERED for i in order], np.int64),
        np.array([number["/".join(pairs[i])] for i in order], np.int64),
        np.array([kind_number[kinds[i]] for i in order], np.int64),
        names,
        kind_names,
    )


def _lower(name: str) -> str:
    """Most names have no capitals: those are not kept twice."""
    lower = name.lower()
    return name if lower == name else lower


def _merged_guests(answers: Sequence[Present]) -> tuple[Guest, ...]:
    """Each guest once."""
    return tuple(sorted({guest for answer in answers for guest in answer.guests}))


def _among(column: I64, names: list[str], accept: Callable[[str], bool]) -> Bools:
    found: Bools = np.array([accept(name) for name in names], np.bool_)[column]
    return found


def _bits(packed: bytes, n: int) -> Bools:
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=n).astype(np.bool_)


def _texts(column: Texts) -> list[str]:
    blob = column.blob.tobytes()
    return [blob[a:b].decode() for a, b in pairwise(column.off.tolist())]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
