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
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import orjson

from greenlang_iot.devices.fleet import Fleet, read_fleet
from greenlang_iot.devices.locate import Lines, repeated, show
from greenlang_iot.devices.metrics import Metric, Problems
from greenlang_iot.devices.units import UNITS, conversion, siblings
from greenlang_iot.model.directory import Directory, Texts
from greenlang_iot.model.errors import InputError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Some editors begin a UTF-8 file with it."""


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

    Raises InputError with every mistake: one sentence each, with its line and its place. A key that is given
    twice is one: JSON would keep the last and lose what stands before.
    """
    problems: Problems = []
    document = document.removeprefix(BYTE_ORDER_MARK)
    with _no_collection():
        try:
            data = orjson.loads(document)
        except orjson.JSONDecodeError as error:
            problem = f"{source}:{error.lineno}: column {error.colno}: not JSON: {error.msg}"
            raise InputError(f"{source} is not a JSON document", (problem,)) from error
        fleet = read_fleet(data, problems)
        del data
    try:
        twice = "given twice; the one before is not taken"
        problems += [(path, twice) for path in repeated(document.decode())]
        if problems:
            raise _mistakes(document.decode(), source, problems)
    except RecursionError as error:
        raise InputError(f"{source} is nested too deeply to be a registry") from error
    return _columns(fleet)


def _mistakes(text: str, source: str, problems: Problems) -> InputError:
    lines = Lines(text)
    return InputError(
        f"{source} has {len(problems)} mistake{'s' if len(problems) > 1 else ''}",
        tuple(
            f"{source}:{lines.line(path)}: {show(path) or 'document'}: {message}"
            for path, message in problems
        ),
    )


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
    read_fleet(data, problems)
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


def _columns(fleet: Fleet) -> Directory:
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
