"""Devices as CSV rows and back. Pure: text in, plain JSON types out.

Columns: `id, org, site, type` and, where wanted, `enabled, description` and one column for each
override, named `metric.field` (`co2.warn`, `power.interval`). Ranges are written `low:high` with an
open end left empty (`:180`); an empty cell is no override.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from greenlang_iot.devices.locate import show
from greenlang_iot.devices.metrics import FIELDS, suggest
from greenlang_iot.devices.registry import mistakes

Document = dict[str, Any]

REQUIRED = ("id", "org", "site", "type")
COLUMNS = (*REQUIRED, "enabled", "description")
REPORT_EVERY = 5_000
"""Rows after which progress is told."""

_TRUE, _FALSE = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0"})


class BadRow(NamedTuple):
    """line: in the CSV file, from 1. field: the column concerned, or empty."""

    line: int
    field: str
    message: str


@dataclass(slots=True)
class Table:
    """devices: entries of a registry, one per good row. lines: the line of each. bad: in line order."""

    devices: list[Document] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


def read_table(
    text: Iterable[str],
    types: Document,
    advance: Callable[[int], None] = lambda _: None,
) -> Table:
    """The devices of a CSV text (comma or semicolon), checked against the registry's `types`.

    advance: told the number of rows now and then. ValueError where the header is not usable.
    """
    lines = iter(text)
    header = next(lines, "").removeprefix("\ufeff")
    delimiter = ";" if header.count(";") > header.count(",") else ","
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    _check_header(names)
    read = Table()
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    line = 2
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            read.bad.append(BadRow(line, "", f"not CSV: {error}"))
            row = []
        if row is None:
            break
        if row:
            _row(names, row, line, read)
        line = rows.line_num + 2
        if rows.line_num % REPORT_EVERY == 0:
            advance(rows.line_num)
    return _checked(read, types)


def _check_header(names: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise ValueError(f"the first line must name the columns; missing: {', '.join(missing)}")
    for name in names:
        metric, dot, key = name.partition(".")
        if names.count(name) > 1:
            raise ValueError(f"column {name!r} is there twice")
        if dot and metric and key not in FIELDS:
            raise ValueError(
                f"column {name!r}: a metric has no field {key!r}{suggest(key, FIELDS)}"
            )
        if not dot and name not in COLUMNS:
            hint = suggest(name, COLUMNS)
            raise ValueError(f"column {name!r} is unknown{hint} (overrides: metric.field)")


def _row(names: list[str], row: list[str], line: int, read: Table) -> None:
    if len(row) != len(names):
        message = f"{len(row)} cells where the first line names {len(names)} columns"
        read.bad.append(BadRow(line, "", message))
        return
    device: Document = {}
    metrics: dict[str, Document] = {}
    sound = True
    for name, text in zip(names, row, strict=True):
        cell = text.strip()
        if not cell:
            continue
        metric, dot, key = name.partition(".")
        try:
            if dot:
                metrics.setdefault(metric, {})[key] = _value(key, cell)
            else:
                device[name] = _value(name, cell)
        except ValueError as error:
            read.bad.append(BadRow(line, name, str(error)))
            sound = False
    if metrics:
        device["metrics"] = metrics
    if sound:
        read.devices.append(device)
        read.lines.append(line)


def _value(key: str, cell: str) -> Any:
    if key in ("range", "warn"):
        low, colon, high = cell.partition(":")
        if not colon:
            raise ValueError(f"{cell!r} is no range: write low:high, with an open end left empty")
        return [_number(end) if end.strip() else None for end in (low, high)]
    if key in ("max_step", "interval", "tolerance"):
        return _number(cell)
    if key == "enabled":
        if cell.casefold() not in _TRUE | _FALSE:
            raise ValueError(f"{cell!r} must be true or false")
        return cell.casefold() in _TRUE
    return cell


def _number(cell: str) -> float | int:
    try:
        number = float(cell)
    except ValueError:
        raise ValueError(f"{cell.strip()!r} is not a number") from None
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _checked(read: Table, types: Document) -> Table:
    """Move what the registry's own rules refuse to `bad`."""
    refused: set[int] = set()
    found = mistakes({"version": 1, "types": types, "devices": read.devices})
    for place, message in found:
        if place[:1] != ("devices",) or len(place) < 2:
            continue  # the types' own mistakes are those of another file
        index = int(place[1])
        refused.add(index)
        said = re.sub(
            r"devices\[(\d+)\]", lambda m: f"the device in line {read.lines[int(m[1])]}", message
        )
        name = show(tuple(step for step in place[2:] if step != "metrics"))
        read.bad.append(BadRow(read.lines[index], name, said))
    read.bad.sort(key=lambda bad: bad.line)
    kept = [i for i in range(len(read.devices)) if i not in refused]
    return Table([read.devices[i] for i in kept], [read.lines[i] for i in kept], read.bad)


def write_table(document: Document) -> Iterator[list[str]]:
    """A sound registry as rows of cells, the header first. `read_table` makes the same devices of it."""
    devices: list[Document] = document["devices"]
    overrides = {
        f"{metric}.{key}": None
        for device in devices
        for metric, spec in device.get("metrics", {}).items()
        for key in spec
    }
    optional = [name for name in COLUMNS[4:] if any(name in device for device in devices)]
    names = [*REQUIRED, *optional, *overrides]
    yield names
    for device in devices:
        cells = {
            f"{metric}.{key}": _cell(value)
            for metric, spec in device.get("metrics", {}).items()
            for key, value in spec.items()
        }
        cells |= {name: _cell(device[name]) for name in COLUMNS if name in device}
        yield [cells.get(name, "") for name in names]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ":".join("" if end is None else _cell(end) for end in value)
    return repr(value) if isinstance(value, float) else str(value)
