"""`greenlang-iot devices`: check, list, show, convert and discover devices."""

import csv
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greenlang_iot.cli.devices_discover import discover
from greenlang_iot.cli.new_file import write_new
from greenlang_iot.cli.options import REGISTRY, AsJson, AsJsonLines, DevicesFile
from greenlang_iot.cli.registry_file import read_document, write_document
from greenlang_iot.cli.terminal import (
    console,
    counted,
    print_json,
    print_json_line,
    print_problems,
    progress,
    say,
)
from greenlang_iot.model.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from greenlang_iot.model.directory import Directory

app = typer.Typer(help="The device registry: check, list, convert, discover.", no_args_is_help=True)
app.command()(discover)

RegistryArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[REGISTRY]", help="Device registry (JSON), as --devices-file."),
]

_SHOWN = 200
"""Rows that a table on the screen shows."""


@app.callback()
def group() -> None:
    """The device registry: check, list, convert, discover."""


@app.command()
def validate(
    registry: RegistryArgument = None,
    devices_file: DevicesFile = REGISTRY,
    as_json: AsJson = False,
) -> None:
    """Report every mistake of a registry at once, with its line.

    Example: greenlang-iot devices validate devices/devices-registry.json

    Exit codes: 0 no mistake, 2 mistakes.
    """
    from greenlang_iot.devices.registry import load

    file = registry or devices_file
    try:
        directory = load(file)
    except InputError as error:
        if not as_json:
            raise
        print_json({"valid": False, "mistakes": error.problems or (str(error),)})
        raise typer.Exit(2) from error
    counts = {
        "devices": directory.n_devices,
        "series": directory.n_series,
        "sites": len(directory.site),
        "orgs": len(directory.org),
        "types": len(directory.type),
    }
    if as_json:
        print_json({"valid": True, "mistakes": [], **counts})
    else:
        console().print(f"ok {file}: " + ", ".join(_counts(counts)))


def _counts(counts: dict[str, int]) -> "Iterator[str]":
    for what, number in counts.items():
        yield f"{number:,} series" if what == "series" else counted(number, what.removesuffix("s"))


@app.command("list")
def list_devices(
    devices_file: DevicesFile = REGISTRY,
    org: Annotated[str | None, typer.Option(help="Only this organisation.")] = None,
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    device_type: Annotated[str | None, typer.Option("--type", help="Only this type.")] = None,
    as_json: AsJsonLines = False,
) -> None:
    """List the devices of a registry.

    Example: greenlang-iot devices list --site plant-a --json

    Exit codes: 0 listed (perhaps none), 2 the registry is wrong.
    """
    from greenlang_iot.devices.registry import load

    directory = load(devices_file)
    rows = [
        row
        for row in (_device(directory, d) for d in range(directory.n_devices))
        if org in (None, row["org"])
        and site in (None, row["site"])
        and device_type in (None, row["type"])
    ]
    if as_json:
        for row in rows:
            print_json_line(row)
        return
    _print_table(rows[:_SHOWN])
    if len(rows) > _SHOWN:
        say(f"{_SHOWN} of {len(rows):,} devices; --json prints all")


@app.command()
def show(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Device id.")],
    devices_file: DevicesFile = REGISTRY,
    as_json: AsJson = False,
) -> None:
    """Show one device with everything that holds for its metrics, from its type and its own.

    Example: greenlang-iot devices show em-main-a

    Exit codes: 0 shown, 2 there is no such device, or the registry is wrong.
    """
    from greenlang_iot.devices.metrics import suggest
    from greenlang_iot.devices.registry import load

    directory = load(devices_file)
    ids = {directory.device[d]: d for d in range(directory.n_devices)}
    if device not in ids:
        raise InputError(f"there is no device {device!r} in {devices_file}{suggest(device, ids)}")
    head = _device(directory, ids[device])
    metrics = [
        _series(directory, s)
        for s in range(
            int(directory.series_start[ids[device]]), int(directory.series_start[ids[device] + 1])
        )
    ]
    if as_json:
        print_json({**head, "metrics": metrics})
        return
    state = "" if head["enabled"] else "  (disabled)"
    console().print(f"{head['id']}  {head['type']}  at {head['org']}/{head['site']}{state}")
    _print_table(
        [
            {
                "metric": m["metric"],
                "unit": m["unit"],
                "range": _range(m["range"]),
                "warn": _range(m["warn"]),
                "step/s": m["max_step"],
                "every": m["interval"] and f"{m['interval']:g} s",
                "profile": m["profile"] if m["enabled"] else "(disabled)",
                **(
                    {"reference": m["reference"] and f"{m['reference']} ± {m['tolerance']:g}"}
                    if any(other["reference"] for other in metrics)
                    else {}
                ),
            }
            for m in metrics
        ]
    )


@app.command("import")
def import_devices(
    source: Annotated[Path, typer.Argument(metavar="CSV", help="Devices (CSV).")],
    output: Annotated[Path, typer.Option(help="Registry to write (JSON); must not exist yet.")],
    types: Annotated[
        Path | None,
        typer.Option(help=f"Registry whose types are used. [default: {REGISTRY} if there]"),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Write the good rows all the same (exit code 1).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a registry of a CSV file: id, org, site, type, and overrides such as co2.warn.

    A range is written low:high, with an open end left empty. Every bad row is named with its line.

    Example: greenlang-iot devices import fleet.csv --output devices/fleet.json

    Exit codes: 0 written, 1 written without the bad rows (--skip-bad), 2 nothing written.
    """
    from greenlang_iot.devices.table import read_table

    if output.exists():
        raise InputError(f"{output} exists already, and is left as it is; choose another --output.")
    known = _types(types)
    text = _read_text(source)
    try:
        with progress("reading rows", text.count("\n")) as advance:
            read = read_table(io.StringIO(text, newline=""), known, advance)
    except ValueError as error:
        raise InputError(f"{source}:1: {error}") from error
    bad = tuple(
        f"{source}:{b.line}: {b.field + ': ' if b.field else ''}{b.message}" for b in read.bad
    )
    rows = len({b.line for b in read.bad})
    written = not bad or skip_bad
    if written:
        used = {device["type"] for device in read.devices}
        yours = types is not None or REGISTRY.exists()  # a catalogue's other types are no loss
        kept = {name: body for name, body in known.items() if yours or name in used}
        write_document(output, {"version": 1, "types": kept, "devices": read.devices})
    if as_json:
        print_json({"written": len(read.devices) if written else 0, "bad": bad})
    else:
        if bad:
            say(f"{source}: {rows:,} bad row{'' if rows == 1 else 's'}")
            print_problems(bad)
        say(
            f"wrote {counted(len(read.devices), 'device')} to {output}"
            if written
            else "nothing is written"
        )
    if bad:
        raise typer.Exit(1 if skip_bad else 2)


@app.command()
def export(
    registry: RegistryArgument = None,
    devices_file: DevicesFile = REGISTRY,
    output: Annotated[
        Path | None, typer.Option(help="File to write (CSV); must not exist. [default: stdout]")
    ] = None,
) -> None:
    """Write the devices of a registry as CSV, which `devices import` reads again.

    Example: greenlang-iot devices export --output fleet.csv

    Exit codes: 0 written, 2 the registry is wrong, or the file exists.
    """
    from greenlang_iot.devices.table import write_table

    document = read_document(registry or devices_file)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    with progress("writing rows", len(document["devices"])) as advance:
        for number, row in enumerate(write_table(document)):
            writer.writerow(row)
            if number % 5_000 == 0:
                advance(number)
    if output is None:
        sys.stdout.write(text.getvalue())
        return
    write_new(output, text.getvalue().encode())
    say(f"wrote {counted(len(document['devices']), 'device')} to {output}")


def _types(path: Path | None) -> dict[str, Any]:
    from greenlang_iot.devices.catalog import TYPES

    if path is None and not REGISTRY.exists():
        return TYPES
    types: dict[str, Any] = read_document(path or REGISTRY)["types"]
    return types


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes().count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from error


def _device(directory: "Directory", d: int) -> dict[str, Any]:
    first, end = int(directory.series_start[d]), int(directory.series_start[d + 1])
    return {
        "id": directory.device[d],
        "org": directory.org[int(directory.org_of[d])],
        "site": directory.site[int(directory.site_of[d])],
        "type": directory.type[int(directory.type_of[d])],
        "enabled": bool(directory.enabled[d]),
        "metrics": end - first,
    }


def _series(directory: "Directory", s: int) -> dict[str, Any]:
    import math

    from greenlang_iot.model.directory import PROFILES

    def end(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    return {
        "metric": directory.metric[int(directory.series_metric[s])],
        "unit": directory.unit[int(directory.series_unit[s])],
        "range": [end(directory.low[s]), end(directory.high[s])],
        "warn": [end(directory.warn_low[s]), end(directory.warn_high[s])],
        "max_step": end(directory.step[s]),
        "interval": int(directory.interval_ns[s]) / 1e9 or None,
        "profile": PROFILES[int(directory.profile[s])],
        "enabled": bool(directory.series_enabled[s]),
        "reference": directory.device[int(directory.series_device[reference])]
        if (reference := int(directory.reference[s])) >= 0
        else None,
        "tolerance": float(directory.tolerance[s]) or None,
    }


def _range(ends: list[float | None]) -> str:
    if ends == [None, None]:
        return ""
    return " to ".join("…" if end is None else f"{end:g}" for end in ends)


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        say("no devices")
        return
    table = Table(header_style="bold")
    for name in rows[0]:
        table.add_column(Text(name))
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row.values()))
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 80
    console(wrap=True, width=width).print(table)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
