"""A recorded series from a file or from the lake: event times and values, in the order recorded."""

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from greenlang_iot.model.batches import F64, I64
from greenlang_iot.model.errors import InputError
from greenlang_iot.sinks.lake_query import LakeReader

TIMES: Final = ("timestamp", "ts", "time")
"""Names that the column of event times may have."""


def from_file(path: Path, device: str | None, metric: str | None) -> tuple[I64, F64]:
    """(event times in ns, values) of a CSV or Parquet file with the columns timestamp and value.

    Where it has the columns device or metric, only those rows. Raises InputError.
    """
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = pyarrow.parquet.read_table(path)
        else:
            table = pyarrow.csv.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}.") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is neither CSV nor Parquet: {error}") from error
    for name, wanted in (("device", device), ("metric", metric)):
        if name in table.column_names and wanted is not None:
            table = table.filter(pc.equal(table.column(name), wanted))
    return _columns(table, str(path))


def from_lake(
    lake: Path, query: str | None, device: str, metric: str, from_ns: int, to_ns: int
) -> tuple[I64, F64]:
    """(event times in ns, values) of a series in the lake, or of a SELECT of ts and value."""
    if query is None:
        query = (
            "SELECT ts, value FROM readings "  # noqa: S608 (quoted)
            f"WHERE device = {_quoted(device)} AND metric = {_quoted(metric)} "
            f"AND ts >= {from_ns:d} AND ts < {to_ns:d} ORDER BY ts, seq"
        )
    return _columns(LakeReader(lake).query(query), "the lake")


def is_query(text: str) -> bool:
    """Whether `--series` is a SELECT and not a file."""
    return re.match(r"\s*(select|with)\s", text, re.IGNORECASE) is not None


def _columns(table: pa.Table, where: str) -> tuple[I64, F64]:
    named = {name.lower(): name for name in table.column_names}
    time = next((named[name] for name in TIMES if name in named), None)
    if time is None or "value" not in named:
        has = ", ".join(table.column_names) or "none"
        raise InputError(f"{where} needs the columns timestamp and value; it has: {has}.")
    value = table.column(named["value"])
    if pa.types.is_boolean(value.type):
        value = value.cast(pa.int8())
    try:
        values: F64 = np.asarray(value.cast(pa.float64()).to_numpy(), np.float64)
        times = _times(table.column(time))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{where}: {error}.") from error
    kept = np.isfinite(values)  # decode rejects what is no finite number
    return times[kept], values[kept]


def _times(column: Any) -> I64:
    """Event times in ns since 1970; numbers are taken for s, ms, µs or ns by their size."""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return np.asarray(column.cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_numpy())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        number = np.asarray(column.to_numpy())
        size = float(np.abs(number).max(initial=0))
        unit = next(
            (u for u, most in ((10**9, 1e11), (10**6, 1e14), (10**3, 1e17)) if size < most), 1
        )
        if number.dtype.kind == "f":
            return np.round(number * unit).astype(np.int64)
        return number.astype(np.int64) * unit
    raise InputError(
        f"its times are of the type {column.type}; they should be ISO 8601 or numbers."
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
