"""SQL over the lake, from any process, also while the gateway writes it. Reads only.

Tables:

    readings   one row per identity (device, metric, ts, seq); of values that collide, one
    alerts     one row per transition
    quality    data quality: one row per window and device, site, fleet

Segments are read before Parquet files are listed: what was compacted in between is found in its
Parquet file. A file may still go away before DuckDB opens it; then everything is listed anew.
"""

import os
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import duckdb
import pyarrow as pa

from greenlang_iot.encode.arrow import SCHEMA
from greenlang_iot.model.errors import GatewayError, InputError
from greenlang_iot.sinks.lake import OTHERS, READINGS, reading_logs, reading_rows
from greenlang_iot.sinks.lake_files import ParquetFile, ToTable, list_parquet, segment_rows
from greenlang_iot.spool.format import DamagedHeader
from greenlang_iot.spool.reader import Segment, list_segments, read_header

MEMORY = 1 << 30
"""Bytes of memory that a query may take on its way, and again its rows."""
SPILL = 4 << 30
"""Bytes of a temporary folder (`TMPDIR`) for what does not fit into its memory."""
THREADS = 4
"""At most; each needs some 100 MB, and the gateway may run on the same machine."""
_BATCH_ROWS = 100_000
_TRIES = 5


class LakeReader:
    """Queries a lake folder; keeps the rows of segments that did not grow for the next query.

    memory, spill: bytes, see `MEMORY` and `SPILL`; 0 for `spill`: nothing is written.
    threads: of DuckDB.
    """

    def __init__(
        self, folder: Path, *, memory: int = MEMORY, spill: int = SPILL, threads: int = THREADS
    ) -> None:
        self._folder = folder
        self._memory = memory
        self._spill = spill
        self._threads = min(threads, os.cpu_count() or 1)
        self._cache: dict[tuple[Path, int], tuple[str, pa.Table]] = {}

    def query(self, sql: str) -> pa.Table:
        """The rows of one SELECT.

        Raises InputError for wrong SQL, GatewayError for anything else: also where it needs more than the
        bounds allow.
        """
        _check(sql)
        if not self._folder.is_dir():
            raise InputError(f"there is no lake in {self._folder}")
        for attempt in range(1, _TRIES + 1):
            try:
                return self._run(sql)
            except duckdb.OutOfMemoryException:
                room = f"{_size(self._memory)} of memory"
                if self._spill:
                    room += f" and {_size(self._spill)} in a temporary folder"
                raise GatewayError(f"the query needs more than {room}; {_LESS}") from None
            except duckdb.IOException as error:
                # A file was merged away since it was listed; any other failure stays one.
                if attempt == _TRIES or str(self._folder) not in str(error):
                    raise GatewayError(f"the lake cannot be read: {_sentence(error)}") from None
        raise AssertionError("unreachable")

    def _run(self, sql: str) -> pa.Table:
        with ExitStack() as stack:
            folder = ""
            if self._spill:
                with suppress(OSError):  # nowhere to write: then there is memory only
                    temporary = tempfile.TemporaryDirectory(prefix="greenlang-iot-query-")
                    folder = stack.enter_context(temporary)
            memory = {"memory_limit": f"{self._memory}B", "temp_directory": folder}
            database = stack.enter_context(
                duckdb.connect(config=memory | {"threads": self._threads})
            )
            if folder:  # among the options of `connect` it has no effect
                database.execute(f"SET max_temp_directory_size = '{self._spill}B'")
            fresh: dict[tuple[Path, int], tuple[str, pa.Table]] = {}
            logs = [(path, path.parent.name) for path in reading_logs(self._folder)]
            self._table(database, fresh, READINGS, SCHEMA, logs, reading_rows)
            for name, (schema, to_table, _) in OTHERS.items():
                logs = [(self._folder / name / "log", name)]
                self._table(database, fresh, name, schema, logs, to_table)
            self._cache = fresh
            database.execute(_VIEWS)
            database.execute("SET TimeZone = 'UTC'")  # what now() is, beside `time`
            folders = [str(self._folder / name) for name in (READINGS, *OTHERS)]
            database.execute(f"SET allowed_directories = [{', '.join(map(_quoted, folders))}]")
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
            try:
                return self._bounded(database.sql(sql).to_arrow_reader(_BATCH_ROWS))
            except (duckdb.IOException, duckdb.OutOfMemoryException):
                raise
            except duckdb.Error as error:
                raise InputError(f"the query is wrong: {_sentence(error)}") from None

    def _bounded(self, reader: pa.RecordBatchReader) -> pa.Table:
        batches, size = [], 0
        for batch in reader:
            size += batch.nbytes
            if size > self._memory:
                raise GatewayError(
                    f"the query has more than {_size(self._memory)} of rows; {_LESS}"
                )
            batches.append(batch)
        return pa.Table.from_batches(batches, reader.schema)

    def _table(
        self,
        database: duckdb.DuckDBPyConnection,
        fresh: dict[tuple[Path, int], tuple[str, pa.Table]],
        name: str,
        schema: pa.Schema,
        logs: list[tuple[Path, str]],
        to_table: ToTable,
    ) -> None:
        """The view `_NAME`: rows of segments and of Parquet files."""
        segments = [
            (segment, shard, *self._rows(fresh, segment, schema, to_table))
            for folder, shard in logs
            for segment in list_segments(folder)
        ]
        files, _ = list_parquet(self._folder / name)
        tables = [
            rows
            for segment, shard, log_id, rows in segments
            if not any(_covers(file, shard, log_id, segment.first) for file in files)
        ]
        table = pa.concat_tables([schema.empty_table(), *tables]).unify_dictionaries()
        database.register(f"_{name}_segments", table)
        sources = [f"SELECT * FROM _{name}_segments"]  # noqa: S608  (our own names)
        if files:
            paths = ", ".join(_quoted(str(file.path)) for file in files)
            sources.append(f"SELECT * FROM read_parquet([{paths}], union_by_name = true)")  # noqa: S608  (quoted)
        database.execute(f"CREATE VIEW _{name} AS {' UNION ALL BY NAME '.join(sources)}")

    def _rows(
        self,
        fresh: dict[tuple[Path, int], tuple[str, pa.Table]],
        segment: Segment,
        schema: pa.Schema,
        to_table: ToTable,
    ) -> tuple[str, pa.Table]:
        """(log id, rows) of a segment; nothing where it is gone or damaged."""
        try:
            key = (segment.path, segment.path.stat().st_size)
            if key not in self._cache:
                log_id = f"{read_header(segment).log:016x}"
                tables = [
                    rows if rows.schema == schema else rows.cast(schema)
                    for rows in segment_rows(segment, to_table)
                ]
                self._cache[key] = (
                    log_id,
                    pa.concat_tables([schema.empty_table(), *tables]),
                )
        except (FileNotFoundError, DamagedHeader):
            return "", schema.empty_table()
        fresh[key] = self._cache[key]
        return fresh[key]


_LESS = "ask for one device, a span of time or fewer columns"

_VIEWS = """
CREATE VIEW readings AS
    SELECT DISTINCT ON (device, metric, ts, seq) *, make_timestamp(ts // 1000) AS time FROM _readings;
CREATE VIEW alerts AS
    SELECT DISTINCT ON (transition_id) *, make_timestamp("at" // 1000) AS time FROM _alerts;
CREATE VIEW quality AS
    SELECT DISTINCT ON (scope, org, site, device, ts) *, make_timestamp(ts // 1000) AS time
    FROM _quality;
"""


def _covers(file: ParquetFile, shard: str, log_id: str, first: int) -> bool:
    return (file.shard, file.log) == (shard, log_id) and file.first <= first <= file.last


def _check(sql: str) -> None:
    """InputError unless it is one statement that only reads."""
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise InputError(f"the query is wrong: {_sentence(error)}") from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise InputError("the lake is read only: give one SELECT (or DESCRIBE, SHOW, SUMMARIZE)")


def _sentence(error: duckdb.Error) -> str:
    """DuckDB's message without the picture of the query below it."""
    lines = str(error).split("\nLINE ")[0].split("\n")
    return " ".join(line.strip() for line in lines if line.strip())


def _size(number: int) -> str:
    return f"{number >> 30} GiB" if number >= 1 << 30 else f"{number >> 20} MiB"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
