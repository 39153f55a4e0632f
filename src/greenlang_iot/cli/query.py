"""`greenlang-iot query`: SQL over the lake."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenlang_iot.cli.options import CONFIG_FILES, ConfigFiles
from greenlang_iot.cli.terminal import console, print_json_line
from greenlang_iot.observe.printable import printable_block

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 10_000
_SHOWN = 200
"""Rows that a table on the screen shows."""


class Format(StrEnum):
    """How rows are printed."""

    table = "table"
    json = "json"  # one object a line
    csv = "csv"


def query(
    sql: Annotated[
        str, typer.Argument(metavar="SQL", help="One SELECT over readings, alerts, quality.")
    ],
    lake: Annotated[
        Path | None, typer.Option(help="Folder of the lake; default: what the settings say.")
    ] = None,
    config: ConfigFiles = CONFIG_FILES,
    output: Annotated[
        Format, typer.Option("--format", help="json: one object a line.")
    ] = Format.table,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Ask the lake, also while the gateway runs. Reads only.

    Example: greenlang-iot query "SELECT device, count(*) FROM readings GROUP BY ALL"

    Exit codes: 0 answered, 2 the query or the settings are wrong.
    """
    from greenlang_iot.sinks.lake_query import LakeReader

    rows = _times_as_text(LakeReader(lake if lake is not None else _configured(config)).query(sql))
    if as_json or output is Format.json:
        for batch in rows.to_batches(_BATCH_ROWS):  # Python objects take many times the room
            for row in batch.to_pylist():
                print_json_line(row)
    elif output is Format.csv:
        _print_csv(rows)
    else:
        _print_table(rows)


def _configured(config: list[Path]) -> Path:
    from greenlang_iot.settings.load import load

    settings = load(config, os.environ).settings
    return settings.sinks.lake.path or settings.data_dir / "lake"


def _times_as_text(rows: "pa.Table") -> "pa.Table":
    """Time stamps as ISO 8601 texts: Python's datetime ends at the microsecond."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for i, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type):
            text = pc.replace_substring_regex(pc.cast(rows[i], pa.string()), r"(\.\d*?)0+$", r"\1")
            rows = rows.set_column(i, field.name, pc.utf8_rtrim(text, "."))
    return rows


def _print_csv(rows: "pa.Table") -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(rows.column_names)
    for batch in rows.to_batches(_BATCH_ROWS):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            writer.writerow("" if cell is None else printable_block(str(cell)) for cell in row)


def _print_table(rows: "pa.Table") -> None:
    import pyarrow as pa
    from rich.table import Table
    from rich.text import Text

    out = console(wrap=True)
    shown = rows.slice(0, _SHOWN)
    table = Table(header_style="bold")
    for field in rows.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        table.add_column(Text(field.name), justify="right" if number else "left")
    cells = list(zip(*(column.to_pylist() for column in shown.columns), strict=True))
    for row in cells:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    unbounded = out.options.update(max_width=10_000)
    if out.measure(table, options=unbounded).minimum <= out.width:
        out.print(table)
    else:  # words would be cut: one line a column
        wide = max(map(len, rows.column_names))
        for number, row in enumerate(cells, 1):
            out.print(f"── {number} ──")
            for name, cell in zip(rows.column_names, row, strict=True):
                out.print(f"{name:>{wide}}  {'' if cell is None else cell}")
    if rows.num_rows > _SHOWN:
        out.print(f"{_SHOWN} of {rows.num_rows} rows; --format json or csv prints all")
