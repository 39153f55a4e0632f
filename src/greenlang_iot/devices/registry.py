"""The device registry: a JSON document → the columns of a `Directory`.

```json
{
  "version": 1,
  "types": {
    "co2-sensor": {
      "metrics": {
        "co2": {"unit": "ppm", "range": [0, 10000], "warn": [350, 1500], "max_step": 50,
                "interval": 60, "profile": "smooth", "enabled": true}
      }
    }
  },
  "devices": [
    {"id": "co2-01", "org": "acme", "site": "plant-a", "type": "co2-sensor",
     "metrics": {"co2": {"warn": [350, 1000]}}}
  ]
}
```

A type defines its metrics once; a device names its type and overrides single fields where it
differs. Of a metric only `unit` is required; `null` in a range is an open end; `max_step` is the
largest physically possible change per second, in the unit; `interval` is the expected time between
readings in seconds (0 or absent: the device is never called silent). A device's metric may name the
`reference`, a device of its site whose metric of that name it should agree with to within `tolerance`:
its accuracy is then measured against that. The JSON Schema lies beside the example in `devices/`.
"""

import gc
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson

from greenlang_iot.devices.locate import Lines, Place, show
from greenlang_iot.devices.metrics import Metric, Problems, read_metric, suggest
from greenlang_iot.devices.names import are_plain, kind, metric_problem, name_problem
from greenlang_iot.devices.units import UNITS, conversion, siblings
from greenlang_iot.model.batches import I32, I64, U8
from greenlang_iot.model.directory import Directory, Texts
from greenlang_iot.model.errors import InputError

_T = TypeVar("_T")
_TOP_KEYS = frozenset({"$schema", "version", "description", "types", "devices"})
_TYPE_KEYS = frozenset({"description", "metrics"})
_NEEDED = ("id", "org", "site", "type")
_DEVICE_KEYS = frozenset({"id", "org", "site", "type", "enabled", "metrics", "description"})


def load(path: Path) -> Directory:
    """Read a registry file. Raises InputError with every mistake in it (`problems`)."""
    try:
        document = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    return parse(document, str(path))


def unreadable(path: Path, error: OSError) -> InputError:
    """Why there is no registry, and where one comes from."""
    if isinstance(error, FileNotFoundError):
        return InputError(
            f"there is no device registry {path}: name yours with --devices-file, or make one with "
            "`greenlang-iot devices import` (of a CSV) or `greenlang-iot devices discover`"
        )
    return InputError(f"cannot read the device registry {path}: {error.strerror}")


def parse(document: bytes, source: str = "registry") -> Directory:
    """Columns of a registry document (JSON, UTF-8); `source` is named in the problems.

    Raises InputError with every mistake: one sentence each, with its line and its place.
    """
    problems: Problems = []
    with _no_collection():
        try:
            data = orjson.loads(document)
        except orjson.JSONDecodeError as error:
            problem = f"{source}:{error.lineno}: column {error.colno}: not JSON: {error.msg}"
            raise InputError(f"{source} is not a JSON document", (problem,)) from error
        fleet = _read(data, problems)
        del data
    if problems:
        lines = Lines(document.decode())
        raise InputError(
            f"{source} has {len(problems)} mistake{'s' if len(problems) > 1 else ''}",
            tuple(
                f"{source}:{lines.line(path)}: {show(path) or 'document'}: {message}"
                for path, message in problems
            ),
        )
    return _columns(fleet)


@contextmanager
def _no_collection() -> Iterator[None]:
    """A million devices are millions of objects, and none of them is garbage while they are read."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def mistakes(data: object) -> Problems:
    """Every mistake of a registry that is not a text yet: (place in it, what is wrong there)."""
    problems: Problems = []
    _read(data, problems)
    return problems


def texts(items: Iterable[str]) -> Texts:
    """A column of texts from Python strings."""
    items = items if isinstance(items, Collection) else list(items)
    joined = "".join(items)
    lengths: Iterable[int] = map(len, items)
    if not joined.isascii():
        lengths = (len(item.encode()) for item in items)
    off = np.zeros(len(items) + 1, np.int64)
    np.cumsum(np.fromiter(lengths, np.int64, len(items)), out=off[1:])
    return Texts(np.frombuffer(joined.encode(), np.uint8).copy(), off)


@dataclass(slots=True)
class _Fleet:
    """A registry as lists or columns: what a Directory is made of. Per device only small integers."""

    types: dict[str, dict[str, Metric]] = field(default_factory=dict)
    orgs: dict[str, int] = field(default_factory=dict)
    sites: dict[tuple[str, str], int] = field(default_factory=dict)
    names: Collection[str] = ()  # ids, by device index
    ids: dict[str, int] = field(default_factory=dict)  # id → device index, where somebody asks
    entry_of: Sequence[int] = ()  # device index → place in the document
    org_of: Sequence[int] | I32 = ()
    site_of: Sequence[int] | I32 = ()
    type_of: Sequence[int] | I32 = ()
    enabled: Sequence[bool] | U8 = ()
    overrides: list[tuple[int, str, Metric]] = field(default_factory=list)  # (device, metric, …)


def _read(data: object, problems: Problems) -> _Fleet:
    fleet = _Fleet()
    if not isinstance(data, dict):
        problems.append(((), f"a registry is an object with types and devices, not {kind(data)}"))
        return fleet
    _unknown_keys(data, _TOP_KEYS, (), problems)
    if data.get("version") != 1 or isinstance(data.get("version"), bool):
        problems.append((("version",), 'must be 1 (add "version": 1)'))
    types, devices = data.get("types", {}), data.get("devices", [])
    raw: dict[str, dict[str, Any]] = {}
    if not isinstance(types, dict):
        problems.append((("types",), f"must be an object of types by name, not {kind(types)}"))
    else:
        raw = _read_types(types, fleet, problems)
    if not isinstance(devices, list):
        problems.append((("devices",), f"must be a list of devices, not {kind(devices)}"))
    else:
        if not _take_devices(devices, raw, fleet):
            _read_devices(devices, raw, fleet, problems)
        _check_references(fleet, problems)
    return fleet


def _check_references(fleet: _Fleet, problems: Problems) -> None:
    """A reference is another device of the site, has the metric in the same unit, and none itself."""
    unit_of = {(device, name): metric.unit for device, name, metric in fleet.overrides}
    compared = {(device, name) for device, name, metric in fleet.overrides if metric.reference}
    types = list(fleet.types.values())
    for device, name, metric in fleet.overrides:
        if not metric.reference:
            continue
        place = ("devices", fleet.entry_of[device], "metrics", name, "reference")
        other = fleet.ids.get(metric.reference)
        if other is None:
            problem = (
                f"there is no device {metric.reference!r}{suggest(metric.reference, fleet.ids)}"
            )
        elif other == device:
            problem = "a device is not its own reference"
        elif fleet.site_of[other] != fleet.site_of[device]:
            problem = f"{metric.reference!r} is of another site"
        elif name not in types[fleet.type_of[other]]:
            problem = f"{metric.reference!r} has no metric {name!r}"
        elif (other, name) in compared:
            problem = f"{metric.reference!r} has a reference itself"
        elif (unit := unit_of.get((other, name), types[fleet.type_of[other]][name].unit)) != (
            metric.unit
        ):
            problem = f"{metric.reference!r} has it in {unit}, this device in {metric.unit}"
        else:
            continue
        problems.append((place, problem))


def _read_types(
    types: dict[str, Any], fleet: _Fleet, problems: Problems
) -> dict[str, dict[str, Any]]:
    """Fill `fleet.types`; returns the metrics as written, type by type, for overrides."""
    raw: dict[str, dict[str, Any]] = {}
    for name, body in types.items():
        place = ("types", name)
        fleet.types[name] = {}
        raw[name] = {}
        if (problem := name_problem(name)) is not None:
            problems.append((place, problem))
        if not isinstance(body, dict):
            problems.append((place, f"a type is an object with metrics, not {kind(body)}"))
            continue
        _unknown_keys(body, _TYPE_KEYS, place, problems)
        metrics = body.get("metrics")
        if not isinstance(metrics, dict) or not metrics:
            problems.append((place, "needs metrics: an object with at least one metric by name"))
            continue
        for metric, spec in metrics.items():
            here = (*place, "metrics", metric)
            if (problem := metric_problem(metric)) is not None:
                problems.append((here, problem))
            if isinstance(spec, dict):
                raw[name][metric] = spec
                if "reference" in spec:
                    problem = "stands with a device (devices[].metrics), not with a type"
                    problems.append(((*here, "reference"), problem))
            fleet.types[name][metric] = read_metric(spec, here, problems)
    return raw


def _take_devices(devices: list[Any], raw: dict[str, dict[str, Any]], fleet: _Fleet) -> bool:
    """Read devices column by column where all are sound; else False, with nothing read.

    What is wrong, and where, is the business of `_read_devices`, which looks at one after the other.
    """
    try:
        ids, orgs, site_names, kinds = (list(map(itemgetter(key), devices)) for key in _NEEDED)
    except (TypeError, KeyError, IndexError):
        return False
    if not {*map(type, devices)} <= {dict}:
        return False
    if not {*map(type, chain(ids, orgs, site_names, kinds))} <= {str}:
        return False
    org_index, type_index = _numbered(orgs), _numbered(fleet.types)
    if not type_index.keys() >= {*kinds} or not are_plain(ids):
        return False
    if any(name_problem(name) is not None for name in {*orgs, *site_names}):
        return False
    if not _are_distinct(ids):
        return False
    enabled: U8 = np.ones(len(ids), np.uint8)
    overrides = []
    keys = np.fromiter(map(len, devices), np.int64, len(devices))
    for i in np.flatnonzero(keys > len(_NEEDED)).tolist():
        entry = devices[i]
        on = entry.get("enabled", True)
        if not entry.keys() <= _DEVICE_KEYS or not isinstance(on, bool):
            return False
        enabled[i] = on
        if "metrics" in entry:
            overrides.append(i)
    problems: Problems = []
    for i in overrides:
        name = kinds[i]
        _read_overrides((), devices[i]["metrics"], i, raw[name], name, fleet, problems)
        if problems:
            fleet.overrides.clear()
            return False
    fleet.names, fleet.orgs = ids, org_index
    if overrides:  # which may name others
        fleet.ids = dict(zip(ids, range(len(ids)), strict=True))
    fleet.entry_of, fleet.enabled = range(len(ids)), enabled
    fleet.org_of, fleet.type_of = _looked_up(org_index, orgs), _looked_up(type_index, kinds)
    _take_sites(site_names, fleet.org_of, fleet)
    return True


def _are_distinct(names: Sequence[str]) -> bool:
    """Whether no name is there twice; mostly their hashes say so."""
    hashes: I64 = np.fromiter(map(hash, names), np.int64, len(names))
    hashes.sort()
    return bool((hashes[1:] != hashes[:-1]).all()) or len({*names}) == len(names)


def _take_sites(names: Sequence[str], org_of: I32, fleet: _Fleet) -> None:
    """Sites are pairs of org and name, numbered in the order of their first device."""
    name_index = _numbered(names)
    pairs = org_of.astype(np.int64) * len(name_index) + _looked_up(name_index, names)
    found, first, of = np.unique(pairs, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(found), np.int32)
    place[order] = np.arange(len(found))
    orgs, every = list(fleet.orgs), list(name_index)
    for pair in found[order].tolist():
        org, name = divmod(pair, len(every))
        fleet.sites[orgs[org], every[name]] = len(fleet.sites)
    fleet.site_of = place[of]


def _numbered(names: Iterable[_T]) -> dict[_T, int]:
    """Each name once, with its place in the order of first appearance."""
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def _looked_up(index: Mapping[_T, int], names: Sequence[_T]) -> I32:
    return np.fromiter(map(index.__getitem__, names), np.int32, len(names))


def _read_devices(
    devices: list[Any], raw: dict[str, dict[str, Any]], fleet: _Fleet, problems: Problems
) -> None:
    type_index = {name: i for i, name in enumerate(fleet.types)}
    entry_of: list[int] = []
    org_of: list[int] = []
    site_of: list[int] = []
    type_of: list[int] = []
    enabled_of: list[bool] = []
    fleet.entry_of, fleet.org_of, fleet.site_of = entry_of, org_of, site_of
    fleet.type_of, fleet.enabled, fleet.names = type_of, enabled_of, fleet.ids
    good_places: set[str] = set()  # org and site names that were checked already
    for i, entry in enumerate(devices):
        place = ("devices", i)
        if not isinstance(entry, dict):
            problems.append((place, f"a device is an object, not {kind(entry)}"))
            continue
        if not entry.keys() <= _DEVICE_KEYS:
            _unknown_keys(entry, _DEVICE_KEYS, place, problems)
        enabled = entry.get("enabled", True)
        if not isinstance(enabled, bool):
            problems.append(((*place, "enabled"), "must be true or false"))
        sound = _names_are_sound(entry, place, good_places, problems)
        type_name: Any = entry.get("type")
        type_id = type_index.get(type_name) if isinstance(type_name, str) else None
        if type_id is None:
            what = f"there is no type {type_name!r} in types{suggest(type_name, type_index)}"
            problems.append(
                ((*place, "type"), what) if "type" in entry else (place, "type is missing")
            )
        if not sound or type_id is None:
            continue
        org, site = entry["org"], entry["site"]
        device = fleet.ids.setdefault(entry["id"], len(fleet.ids))
        if device < len(entry_of):
            taken = f"{entry['id']!r} is taken by devices[{entry_of[device]}]"
            problem = f"{taken}; ids are unique over all orgs and sites"
            problems.append(((*place, "id"), problem))
            continue
        entry_of.append(i)
        org_of.append(fleet.orgs.setdefault(org, len(fleet.orgs)))
        site_of.append(fleet.sites.setdefault((org, site), len(fleet.sites)))
        type_of.append(type_id)
        enabled_of.append(enabled is True)
        if "metrics" in entry:
            metrics = (*place, "metrics"), entry["metrics"]
            _read_overrides(*metrics, device, raw[type_name], type_name, fleet, problems)


def _names_are_sound(
    entry: dict[str, Any], place: Place, good_places: set[str], problems: Problems
) -> bool:
    sound = True
    for key in ("id", "org", "site"):
        name: Any = entry.get(key)
        if isinstance(name, str) and name in good_places:
            continue
        if key not in entry:
            problems.append((place, f"{key} is missing"))
            sound = False
        elif (problem := name_problem(name)) is not None:
            problems.append(((*place, key), problem))
            sound = False
        elif key != "id":
            good_places.add(name)
    return sound


def _read_overrides(
    place: Place,
    metrics: object,
    device: int,
    raw: dict[str, Any],
    type_name: str,
    fleet: _Fleet,
    problems: Problems,
) -> None:
    if not isinstance(metrics, dict):
        problems.append((place, f"must be an object of overrides by metric, not {kind(metrics)}"))
        return
    for name, spec in metrics.items():
        if name not in raw:
            hint = suggest(name, raw)
            problems.append(((*place, name), f"type {type_name!r} has no such metric{hint}"))
        elif not isinstance(spec, dict):
            problems.append(((*place, name), f"an override is an object, not {kind(spec)}"))
        else:
            found: Problems = []
            metric = read_metric({**raw[name], **spec}, (*place, name), found)
            if found:  # a mistake of the type itself is reported there, once
                of_type: Problems = []
                read_metric(raw[name], (*place, name), of_type)
                problems += [problem for problem in found if problem not in of_type]
            fleet.overrides.append((device, name, metric))


def _unknown_keys(
    data: dict[str, Any], known: frozenset[str], place: Place, problems: Problems
) -> None:
    for key in data.keys() - known:
        problems.append(((*place, key), f"unknown key{suggest(key, known)}"))


def _columns(fleet: _Fleet) -> Directory:
    """Types become one table of metrics; every series is a row number of it, gathered at once."""
    table = [m for metrics in fleet.types.values() for m in metrics.values()]
    counts_of_type = np.array([len(m) for m in fleet.types.values()], np.int64)
    first_of_type = np.cumsum(counts_of_type) - counts_of_type
    type_of = np.array(fleet.type_of, np.int32)
    n = len(type_of)
    counts = counts_of_type[type_of] if n else np.zeros(0, np.int64)
    series_start = np.zeros(n + 1, np.int64)
    np.cumsum(counts, out=series_start[1:])
    within = np.arange(series_start[-1]) - np.repeat(series_start[:-1], counts)
    row = np.repeat(first_of_type[type_of] if n else counts, counts) + within

    type_names = list(fleet.types)
    for device, name, metric in fleet.overrides:
        position = list(fleet.types[type_names[type_of[device]]]).index(name)
        row[series_start[device] + position] = len(table)
        table.append(metric)

    reference = np.full(len(row), -1, np.int32)
    for device, name, metric in fleet.overrides:
        if metric.reference:
            other = fleet.ids[metric.reference]
            of_other = list(fleet.types[type_names[type_of[other]]]).index(name)
            position = list(fleet.types[type_names[type_of[device]]]).index(name)
            reference[series_start[device] + position] = series_start[other] + of_other

    metric_names = list(dict.fromkeys(name for m in fleet.types.values() for name in m))
    metric_index = {name: i for i, name in enumerate(metric_names)}
    name_of_row = [name for m in fleet.types.values() for name in m]
    name_of_row += [name for _, name, _ in fleet.overrides]
    units = _units(table)
    unit_index = {name: i for i, name in enumerate(units)}
    pairs = [
        (unit_index[source], unit_index[target], *conversion(source, target))
        for target in dict.fromkeys(m.unit for m in table)
        for source in siblings(target)
    ]
    return Directory(
        device=texts(fleet.names),
        org=texts(fleet.orgs),
        site=texts(site for _, site in fleet.sites),
        type=texts(type_names),
        org_of=np.array(fleet.org_of, np.int32),
        site_of=np.array(fleet.site_of, np.int32),
        type_of=type_of,
        enabled=np.array(fleet.enabled, np.uint8),
        series_start=series_start,
        series_device=np.repeat(np.arange(n, dtype=np.int32), counts),
        series_metric=np.array([metric_index[name] for name in name_of_row], np.int32)[row],
        series_unit=np.array([unit_index[m.unit] for m in table], np.int32)[row],
        low=np.array([m.low for m in table], np.float64)[row],
        high=np.array([m.high for m in table], np.float64)[row],
        warn_low=np.array([m.warn_low for m in table], np.float64)[row],
        warn_high=np.array([m.warn_high for m in table], np.float64)[row],
        step=np.array([m.step for m in table], np.float64)[row],
        interval_ns=np.array([m.interval_ns for m in table], np.int64)[row],
        profile=np.array([m.profile for m in table], np.uint8)[row],
        series_enabled=np.array([m.enabled for m in table], np.uint8)[row],
        reference=reference,
        tolerance=np.array([m.tolerance for m in table], np.float64)[row],
        metric=texts(metric_names),
        unit=texts(units),
        unit_from=np.array([p[0] for p in pairs], np.int32),
        unit_to=np.array([p[1] for p in pairs], np.int32),
        unit_factor=np.array([p[2] for p in pairs], np.float64),
        unit_shift=np.array([p[3] for p in pairs], np.float64),
    )


def _units(table: list[Metric]) -> list[str]:
    """The registry's units, then every known unit of their dimensions that a payload may use."""
    own = dict.fromkeys(m.unit for m in table)
    convertible = {s: None for unit in own if unit in UNITS for s in siblings(unit)}
    return list(own | convertible)
