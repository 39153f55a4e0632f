"""A series' last minutes from the lake, for a picture; bounded, because the parent is not a data base."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from greenlang_iot.model.batches import F32
from greenlang_iot.model.errors import GatewayError, InputError
from greenlang_iot.spool.reader import list_segments

if TYPE_CHECKING:
    from greenlang_iot.sinks.lake_query import LakeReader

MAX_POINTS: Final = 2_000
"""Of one picture. Where there are more readings, up to three of each of `THINNED` equal parts are drawn."""
THINNED: Final = 500
MAX_LOG_BYTES: Final = 67_108_864
"""Segments that are not Parquet yet have to be read whole: beyond this there is no history, only live."""
MEMORY: Final = 268_435_456
"""Bytes that a question may take in the parent, see `LakeReader`."""
ANSWER_WITHIN: Final = 10.0
LEARN_NS: Final = 1_800_000_000_000
"""Before the picture begins: readings from which to learn what was normal."""
MAX_ASKED: Final = 32
"""Pictures that may wait for the lake; one is made at a time."""

Point = list[Any]
"""[time in s, value, score, expected, band, suspect]"""
Judge = Callable[[Sequence[int], Sequence[float]], tuple[F32, F32]]
"""(times in ns, values), oldest first → (expected, band), NaN where nothing can be said."""


class History:
    """Asks the lake in a thread of its own, one question at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reader: LakeReader | None = None
        self._thread = ThreadPoolExecutor(1, "history")
        self._asked = 0

    async def series(
        self, device: str, metric: str, since_ns: int, judge: Judge
    ) -> tuple[list[Point], str]:
        """Points, oldest first, and why there are none, or not all.

        judge: what would have been expected; called in the thread.
        """
        if self._asked >= MAX_ASKED:
            return [], "The lake is busy with other pictures."
        self._asked += 1
        try:
            asked = asyncio.get_running_loop().run_in_executor(
                self._thread, self._query, device, metric, since_ns, judge
            )
            asked.add_done_callback(self._answered)
            return await asyncio.wait_for(asyncio.shield(asked), ANSWER_WITHIN)
        except TimeoutError:
            return [], "The lake did not answer in time: the picture begins when you look."

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _answered(self, _: object) -> None:
        self._asked -= 1

    def _query(
        self, device: str, metric: str, since_ns: int, judge: Judge
    ) -> tuple[list[Point], str]:
        # Arrow and DuckDB take a second to load: only when somebody looks.
        from greenlang_iot.sinks.lake import reading_logs
        from greenlang_iot.sinks.lake_query import LakeReader

        if self._reader is None:
            self._reader = LakeReader(self._folder, memory=MEMORY, spill=0, threads=1)
        logs = sum(
            _size(segment.path)
            for folder in reading_logs(self._folder)
            for segment in list_segments(folder)
        )
        if logs > MAX_LOG_BYTES:
            return [], "Readings come too fast to read them back: the picture begins when you look."
        series = f"device = {_quoted(device)} AND metric = {_quoted(metric)}"
        try:
            times, *columns = self._columns(
                "SELECT ts, value, score, verdict FROM readings "  # noqa: S608 (quoted)
                f"WHERE {series} AND ts >= {since_ns - LEARN_NS} ORDER BY ts DESC LIMIT {MAX_POINTS}"
            )
            expected, band = judge(times, columns[0])
            bands = [_finite(expected), _finite(band)]
            if len(times) < MAX_POINTS or times[0] < since_ns:
                return _points(since_ns, times, *columns, *bands), ""
            part_ns = -(-(times[-1] + 1 - since_ns) // THINNED)
            known = dict(zip(times, zip(*bands, strict=True), strict=True))
            times, *columns = self._columns(_thinned(series, since_ns, part_ns))
        except (GatewayError, InputError) as error:
            return [], str(error)
        unknown = None, None
        bands = [[known.get(ts, unknown)[which] for ts in times] for which in (0, 1)]
        note = f"Of each {part_ns / 1e9:.3g} s the lowest, the highest and the least usual reading."
        return _points(since_ns, times, *columns, *bands), note

    def _columns(self, sql: str) -> list[list[Any]]:
        """Of a query of the newest readings: the columns, oldest first."""
        assert self._reader is not None
        table = self._reader.query(sql)
        return [column.to_pylist()[::-1] for column in table.columns]


def _thinned(series: str, since_ns: int, part_ns: int) -> str:
    """SQL: the lowest, the highest and the least usual reading of each part, newest first."""
    reading = "{'ts': ts, 'value': value, 'score': score, 'verdict': verdict}"
    return (
        "SELECT * FROM (SELECT DISTINCT unnest(kept, recursive := true) FROM ("  # noqa: S608 (quoted)
        f"SELECT [arg_min({reading}, value), arg_max({reading}, value), arg_max({reading}, score)] AS kept "
        f"FROM readings WHERE {series} AND ts >= {since_ns} GROUP BY (ts - {since_ns}) // {part_ns}"
        ")) ORDER BY ts DESC"
    )


def _points(since_ns: int, *columns: list[Any]) -> list[Point]:
    """columns: ts, value, score, verdict, expected, band."""
    return [
        [ts / 1e9, value, score, expected, band, verdict == "suspect"]
        for ts, value, score, verdict, expected, band in zip(*columns, strict=True)
        if ts is not None and ts >= since_ns
    ]


def _finite(column: F32) -> list[float | None]:
    return [float(x) if np.isfinite(x) else None for x in column]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # it became Parquet
        return 0


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
