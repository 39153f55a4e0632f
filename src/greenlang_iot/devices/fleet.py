"""A registry's JSON → a `Fleet`: every device, type and metric that is sound, and every mistake with its place."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np

from greenlang_iot.devices.locate import Place
from greenlang_iot.devices.metrics import Metric, Problems, read_metric, suggest
from greenlang_iot.devices.names import are_plain, kind, metric_problem, name_problem
from greenlang_iot.model.batches import I32, I64, U8

_T = TypeVar("_T")
_TOP_KEYS = frozenset({"$schema", "version", "description", "types", "devices"})
_TYPE_KEYS = frozenset({"description", "metrics"})
_NEEDED = ("id", "org", "site", "type")
_DEVICE_KEYS = frozenset({"id", "org", "site", "type", "enabled", "metrics", "description"})


@dataclass(slots=True)
class Fleet:
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


def read_fleet(data: object, problems: Problems) -> Fleet:
    """What is sound of a registry as JSON gives it; every mistake goes to `problems`."""
    fleet = Fleet()
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


def _check_references(fleet: Fleet, problems: Problems) -> None:
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
    types: dict[str, Any], fleet: Fleet, problems: Problems
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


def _take_devices(devices: list[Any], raw: dict[str, dict[str, Any]], fleet: Fleet) -> bool:
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


def _take_sites(names: Sequence[str], org_of: I32, fleet: Fleet) -> None:
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
    devices: list[Any], raw: dict[str, dict[str, Any]], fleet: Fleet, problems: Problems
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
    fleet: Fleet,
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
