"""Readings of the past for a trial of rules: from the lake, or from InfluxDB 2.x and 1.x."""

import asyncio
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv

from greenlang_iot.model.batches import F64, I32, I64
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.errors import SinkError
from greenlang_iot.settings.model import InfluxSettings
from greenlang_iot.sinks.influx_change import checked
from greenlang_iot.sinks.influx_http import Answer, InfluxHttp
from greenlang_iot.sinks.lake_query import LakeReader

_SCORE: Final = "_score"
"""End of the name of a field that holds the score of a suspect reading."""


class Stretch(NamedTuple):
    """Readings in the order of their event times. unknown: more of them, of series not registered."""

    series: I32
    ts_ns: I64
    value: F64
    score: F64  # in [0, 1]; 0 where it was not kept
    unknown: int


class History(Protocol):
    def read(self, from_ns: int, to_ns: int) -> Stretch: ...


class LakeHistory:
    """Raises InputError where there is no lake."""

    def __init__(self, lake: Path, directory: Directory) -> None:
        self._lake = LakeReader(lake)
        self._series = _series(directory)

    def read(self, from_ns: int, to_ns: int) -> Stretch:
        columns = "SELECT device, metric, ts, value, score FROM readings"
        table = self._lake.query(
            f"{columns} WHERE ts >= {from_ns:d} AND ts < {to_ns:d} ORDER BY ts"  # numbers alone
        )
        series = _found(self._series, table.column(0), table.column(1))
        known = series >= 0
        ts, value, score = (np.asarray(table.column(i).to_numpy()) for i in (2, 3, 4))
        score = np.nan_to_num(score[known])
        return Stretch(series[known], ts[known], value[known], score, int((~known).sum()))


class InfluxHistory:
    """Fields of the measurement of readings. Scores are there of suspect readings only.

    Raises SinkError where InfluxDB cannot be asked or refuses.
    """

    def __init__(self, settings: InfluxSettings, directory: Directory) -> None:
        self._settings = settings
        self._series = _series(directory)

    def read(self, from_ns: int, to_ns: int) -> Stretch:
        table = asyncio.run(self._asked(from_ns, to_ns))
        device, name = table.column("device"), table.column("field")
        ts: I64 = np.asarray(table.column("ts").to_numpy())
        value: F64 = np.asarray(table.column("value").to_numpy())
        series = _found(self._series, device, name)
        scored = _found(self._series, device, name, _SCORE)
        is_score = (series < 0) & (scored >= 0)
        known = series >= 0
        scores = dict(
            zip(
                zip(scored[is_score].tolist(), ts[is_score].tolist(), strict=True),
                value[is_score].tolist(),
                strict=True,
            )
        )
        order = np.argsort(ts[known], kind="stable")
        series, at, value = series[known][order], ts[known][order], value[known][order]
        score = np.zeros(len(series))
        if scores:
            pairs = zip(series.tolist(), at.tolist(), strict=True)
            score[:] = [scores.get(pair, 0.0) for pair in pairs]
        return Stretch(series, at, value, score, int((~known & ~is_score).sum()))

    async def _asked(self, from_ns: int, to_ns: int) -> pa.Table:
        http = InfluxHttp(self._settings, connections=1)
        try:
            await http.open()
            if self._settings.version == "2":
                return await self._flux(http, from_ns, to_ns)
            return await self._influxql(http, from_ns, to_ns)
        finally:
            await http.close()

    async def _flux(self, http: InfluxHttp, from_ns: int, to_ns: int) -> pa.Table:
        settings = self._settings
        query = (
            f"from(bucket: {_flux_text(settings.bucket)})"
            f" |> range(start: time(v: {from_ns:d}), stop: time(v: {to_ns:d}))"
            f" |> filter(fn: (r) => r._measurement == {_flux_text(settings.measurement)})"
            ' |> keep(columns: ["_time", "_value", "_field", "device"]) |> group()'
        )
        answer = await http.request(
            "POST",
            "/api/v2/query",
            params={"org": settings.org},
            body=query.encode(),
            headers={"Content-Type": "application/vnd.flux", "Accept": "application/csv"},
        )
        return _of_csv(checked(answer))

    async def _influxql(self, http: InfluxHttp, from_ns: int, to_ns: int) -> pa.Table:
        settings = self._settings
        measurement = settings.measurement.replace("\\", "\\\\").replace('"', '\\"')
        query = (
            f'SELECT *::field FROM "{measurement}" '  # noqa: S608
            f"WHERE time >= {from_ns:d} AND time < {to_ns:d} GROUP BY device"
        )
        params = {"db": settings.bucket, "epoch": "ns", "q": query}
        answer = checked(await http.request("POST", "/query", params=params))
        (result,) = answer.json()["results"]
        if "error" in result:
            raise SinkError(
                f"InfluxDB refused to read the history: {result['error']}",
                reason="refused_statement",
                retryable=False,
            )
        parts = [part for one in result.get("series", ()) for part in _fields(one)]
        return pa.concat_tables(parts) if parts else _NOTHING


_TYPES: Final = {
    "ts": pa.int64(),
    "value": pa.float64(),
    "field": pa.string(),
    "device": pa.string(),
}
_NOTHING: Final = pa.schema(list(_TYPES.items())).empty_table()


def _fields(series: dict[str, Any]) -> Iterator[pa.Table]:
    """A table per field of one series of a 1.x answer, without its gaps."""
    device = series.get("tags", {}).get("device", "")
    columns = list(zip(*series["values"], strict=True))
    times = pa.array(columns[0], pa.int64())
    for name, values in zip(series["columns"][1:], columns[1:], strict=True):
        value = pa.array(values, pa.float64())
        n = len(value)
        names = (pa.array([text] * n, pa.string()) for text in (name, device))
        yield pa.table([times, value, *names], names=list(_TYPES)).filter(value.is_valid())


def _of_csv(answer: Answer) -> pa.Table:
    """The one table of a Flux answer. Raises SinkError where InfluxDB failed on the way."""
    lines = [line for line in answer.body.splitlines() if line and not line.startswith(b"#")]
    if not lines:
        return _NOTHING
    names = next(csv.reader([lines[0].decode()]))
    if "_time" not in names:
        told = b" ".join(lines[1:]).decode(errors="replace").strip(",")
        raise SinkError(f"InfluxDB could not read the history: {told}", reason="refused_statement")
    given = {"_time": "ts", "_value": "value", "_field": "field", "device": "device"}
    types = {old: _TYPES[new] for old, new in given.items()} | {"_time": pa.timestamp("ns", "UTC")}
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(b"\n".join(lines)),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types, include_columns=list(given), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise SinkError(
            f"InfluxDB's history is not of numbers: {error}", reason="refused_statement"
        ) from error
    return table.rename_columns(list(given.values())).cast(pa.schema(list(_TYPES.items())))


def _flux_text(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("${", "\\${") + '"'


def _series(directory: Directory) -> dict[tuple[str, str], int]:
    """By device and metric."""
    d = directory
    return {
        (d.device[int(d.series_device[s])], d.metric[int(d.series_metric[s])]): s
        for s in range(d.n_series)
    }


def _found(known: dict[tuple[str, str], int], devices: Any, metrics: Any, ending: str = "") -> I32:
    """Series of each row; −1 where there is none. ending: of the metrics' names, taken off."""
    devices, metrics = _encoded(devices), _encoded(metrics)
    pairs = np.stack([_codes(devices), _codes(metrics)])
    unique, which = np.unique(pairs, axis=1, return_inverse=True)
    ids, names = devices.dictionary.to_pylist(), metrics.dictionary.to_pylist()
    found = np.array(
        [
            known.get((ids[a], names[b].removesuffix(ending)), -1)
            if names[b].endswith(ending)
            else -1
            for a, b in unique.T.tolist()
        ],
        np.int32,
    )
    return found[which.ravel()] if len(found) else np.zeros(0, np.int32)


def _encoded(column: Any) -> Any:
    """A dictionary column in one piece."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    chunks = column.unify_dictionaries().combine_chunks()
    return chunks.chunk(0) if isinstance(chunks, pa.ChunkedArray) else chunks


def _codes(column: Any) -> I64:
    codes: I64 = np.asarray(column.indices.to_numpy(zero_copy_only=False)).astype(np.int64)
    return codes
